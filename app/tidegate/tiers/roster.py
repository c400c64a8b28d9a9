"""How many workers share the limits of a region; pure, told by `source.py`, for the limiter that works without Redis."""

JOINED_SECONDS = 2.0
"""Two heartbeats: by then all others have heard of a worker that joined."""
SETTLED_SECONDS = 10.0
"""As long as a silent worker stays on the region's roster (`regional.SILENT_MILLISECONDS`)."""


class Roster:
    """A number that grows at once and shrinks late, so that the shares of workers that lose Redis together never sum to more than a limit.

    A Redis that has lost its data hears of its workers one after the other, and would tell the first that it is alone. So a smaller number
    counts only after it was heard for `SETTLED_SECONDS` on end, and then the largest of that time. And a worker that joins has no share
    for `JOINED_SECONDS`, while others may still have all. Times are monotonic seconds.
    """

    def __init__(self) -> None:
        self.workers = 0
        """0 until the region was heard for a while."""
        self._joined_at: float | None = None
        self._smaller_since: float | None = None
        self._largest = 0

    def hear(self, workers: int, now: float) -> None:
        """The region said so."""
        if self._joined_at is None:
            self._joined_at = now
        if not self.workers and now - self._joined_at < JOINED_SECONDS:
            return
        if workers >= self.workers:
            self.workers, self._smaller_since = workers, None
            return
        if self._smaller_since is None:
            self._smaller_since, self._largest = now, workers
        self._largest = max(self._largest, workers)
        if now - self._smaller_since >= SETTLED_SECONDS:
            self.workers, self._smaller_since = self._largest, None

    def interrupt(self) -> None:
        """The region was not heard: what it says next may be of another Redis."""
        self._smaller_since = self._joined_at = None
