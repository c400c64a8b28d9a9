"""The field `Cache-Status` (RFC 9211), from what became of a request; filled in and shown by `middleware.py`."""

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStatus:
    """How a lane served one request.

    Args:
        lane: Shared, Dedicated or None.
        forwarded: Why the handler was asked: uri-miss, vary-miss, stale, request or bypass; empty: it was not.
        ttl: Seconds of freshness left of the kept answer that is served, negative if it is stale; None: none is served.
        is_stored: Whether the handler's answer was kept.
        is_collapsed: Whether the answer is that of another request.
        detail: One more word: why a lane was not used, or an answer not kept.
    """

    lane: str
    forwarded: str = ""
    ttl: int | None = None
    is_stored: bool = False
    is_collapsed: bool = False
    detail: str = ""

    @property
    def outcome(self) -> str:
        """The word for metrics: hit, stale, miss, collapsed or bypass."""
        if self.ttl is not None:
            return "hit" if self.ttl >= 0 else "stale"
        return "collapsed" if self.is_collapsed else "bypass" if self.forwarded == "bypass" else "miss"

    def text(self, status: int) -> str:
        """The value of the field, for an answer of that status."""
        is_kept = self.ttl is not None
        parts = [self.lane]
        parts += [f"fwd={self.forwarded}"] if self.forwarded else ["hit"] if is_kept else []
        # Where a kept answer is served all the same, the status is not the handler's.
        parts += [f"fwd-status={status}"] if self.forwarded and not is_kept else []
        parts += [f"ttl={self.ttl}"] if is_kept else []
        parts += ["stored"] if self.is_stored else []
        parts += ["collapsed"] if self.is_collapsed else []
        parts += [f"detail={self.detail}"] if self.detail else []
        return "; ".join(parts)
