"""Whether Redis is worth asking just now, so that a dead one costs a request nothing; pure, asked by `redis.py`."""

import time
from collections.abc import Callable

RETRY_SECONDS = 0.25
"""A lost Redis is tried again this often by one batch; all else is answered without it at once."""


class Circuit:
    """Open after a failure; then one batch a quarter of a second finds out whether Redis is back. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._retry_at: float | None = None

    def allows(self) -> bool:
        """Whether to ask; while open, true for the first who asks after each pause."""
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + RETRY_SECONDS
        return True

    def close(self) -> None:
        """A batch was answered."""
        self._retry_at = None

    def open(self) -> None:
        """A batch failed."""
        self._retry_at = self._clock() + RETRY_SECONDS
