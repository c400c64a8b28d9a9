"""How many seats a worker should have, learned from how long handlers take; without I/O, called by `seats.py`.

The gradient rule of Netflix' concurrency-limits and Envoy's adaptive concurrency filter: seats follow the ratio of the latency without
load to the latency now, plus the square root of the seats, so that there is always something to learn from. The latency without load is
measured anew each minute with the least number of seats, so that it cannot creep up with the load that it is to reveal.
"""

import math

WINDOW_SECONDS = 0.1
WINDOW_SAMPLES = 50
"""A window ends when it has lasted so long and seen so many, as many as Envoy takes. Of 20 exponential latencies the mean is often a
fifth too low, and if that is taken for the latency without load, most of the seats are lost until the next probe."""
PROBE_SECONDS = 60.0
"""Between two measurements without load, as in Envoy."""
TOLERANCE = 1.5
"""Latency may be so much above that without load before seats are taken away (that of Netflix' Gradient2): what chance makes of a mean must
not look like load."""
STEEPEST = 0.5
"""One window at most halves the seats."""


class GradientSeats:
    """Between `least` and `most` seats.

    Args:
        least: Never fewer; with so many a worker is taken to be without load.
        most: Never more.
    """

    def __init__(self, least: int, most: int) -> None:
        self.seats = least
        self._least = least
        self._most = most
        self._idle_seconds: float | None = None
        """Mean latency without load; None while it is being measured."""
        self._probed_at: float | None = None
        self._begin: float | None = None
        self._samples = 0
        self._total = 0.0
        self._most_taken = 0

    def observe(self, seconds: float, taken: int, now: float) -> None:
        """A handler took so long, while so many seats were taken, and ended at `now`."""
        if self._begin is None:
            self._begin = now
        self._samples += 1
        self._total += seconds
        self._most_taken = max(self._most_taken, taken)
        if self._samples >= WINDOW_SAMPLES and now - self._begin >= WINDOW_SECONDS:
            self._end_window(self._total / self._samples, now)
            self._begin, self._samples, self._total, self._most_taken = None, 0, 0.0, 0

    def _end_window(self, mean: float, now: float) -> None:
        if self._idle_seconds is None:
            # Those who had begun before the seats went down still crowd the first window.
            if self._most_taken <= self._least:
                self._idle_seconds, self._probed_at = mean, now
        elif self._probed_at is not None and now - self._probed_at >= PROBE_SECONDS:
            self._idle_seconds, self.seats = None, self._least
        else:
            self._follow(TOLERANCE * self._idle_seconds / mean)

    def _follow(self, ratio: float) -> None:
        gradient = min(1.0, max(STEEPEST, ratio))
        wanted = self.seats * gradient + math.sqrt(self.seats)
        if wanted > self.seats and self._most_taken < self.seats:
            return  # seats that nobody needed teach nothing
        self.seats = max(self._least, min(self._most, round(wanted)))
