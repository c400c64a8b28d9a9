"""The field `Cache-Status` (RFC 9211), from what became of a request; filled in and shown by `middleware.py`."""

from dataclasses import dataclass


@dataclass(slots=True)
class CacheStatus:
    """How a lane served one request.

    Args:
        lane: Shared, Dedicated or None.
        forwarded: Why the handler was asked: uri-miss, vary-miss, stale, request or bypass; empty: it was not, this is a hit.
        ttl: Seconds of freshness left of a kept answer; negative: it is stale.
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
        if not self.forwarded:
            return "hit" if self.ttl is not None and self.ttl >= 0 else "stale"
        return "collapsed" if self.is_collapsed else "bypass" if self.forwarded == "bypass" else "miss"

    def text(self, status: int) -> str:
        """The value of the field, for an answer of that status."""
        parts = [self.lane]
        parts += [f"fwd={self.forwarded}", f"fwd-status={status}"] if self.forwarded else ["hit"]
        parts += [f"ttl={self.ttl}"] if self.ttl is not None else []
        parts += ["stored"] if self.is_stored else []
        parts += ["collapsed"] if self.is_collapsed else []
        parts += [f"detail={self.detail}"] if self.detail else []
        return "; ".join(parts)
