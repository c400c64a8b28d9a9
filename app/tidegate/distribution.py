"""Observations as a histogram holds them, in plain numbers; counted by the rooms, made Prometheus' by `metrics.py`."""

from bisect import bisect_left


class Distribution:
    """How many observations were at most each of `bounds`, which ascend, and what they sum up to."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By the smallest bound that an observation does not exceed; the last is of those above all."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
