"""Plain counts of what the limits do, so that counting costs a request next to nothing; read by `metrics.py` when somebody asks."""

from collections import defaultdict

from tidegate.distribution import Distribution

ASKED_SECONDS = 60.0
"""Whoever loses Redis and is asked by nobody for so long does not know any more, and raises no alarm."""
OUTCOMES = ("granted", "refused", "shadow_refused", "local_granted", "local_refused", "open", "failed", "never_fits")
"""What may become of a request: `docs/metrics.md` says what each means."""


class Measures:
    """Of one worker, since its start."""

    def __init__(self) -> None:
        self.decisions: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By name of the tier and outcome."""
        self.remembered_refusals = 0
        self.batch_decisions = Distribution(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
        self.round_trip_seconds = Distribution(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
        self.lost: dict[int, float] = {}
        """By shard, from a batch that Redis did not decide until one in which it granted: when it last did not, in monotonic seconds."""

    def decides(self, now: float) -> bool:
        """Whether Redis decides at `now` (monotonic seconds), in every shard, as far as this worker knows."""
        return all(now - at > ASKED_SECONDS for at in self.lost.values())
