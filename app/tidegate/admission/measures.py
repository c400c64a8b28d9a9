"""Plain counts of what admission does; read by `metrics.py` when somebody asks."""

from collections import defaultdict

from tidegate.distribution import Distribution

AT_ONCE, WAITED = "at_once", "waited"
FULL, EXPIRED, LEFT, STOPPING = "full", "expired", "left", "stopping"
OUTCOMES = (AT_ONCE, WAITED, FULL, EXPIRED, LEFT, STOPPING)
"""What may become of a request that needs a seat: the first two got one. `docs/metrics.md` says what each means."""


class AdmissionMeasures:
    """Of one worker, since its start."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By name of the tier and outcome."""
        self.wait_seconds = Distribution(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
        """Of those who waited, whatever became of them."""
