"""What the lanes count, in plain numbers; shown by `metrics.py`."""

from collections import Counter

OUTCOMES = ("hit", "stale", "miss", "collapsed", "bypass")


class CacheMeasures:
    """Requests to cached routes, by kind of lane (Shared, Dedicated, None) and what became of them."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
