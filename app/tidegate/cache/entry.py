"""`Entry`: an answer as it is kept, and how old it is; made by `freshness.py`, sealed by `sealing.py`. No I/O."""

from collections.abc import Mapping

import msgspec

from tidegate.cache.directives import MOST_SECONDS


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A 200 of a GET.

    Args:
        headers: Its fields, names in lower case; none that belongs to one exchange alone.
        body: Its content.
        made_at: Seconds since the epoch at which it was made, its own `Age` taken off.
        fresh_seconds: How long from then it is fresh.
        stale_seconds: How long after that it may be served while it is refreshed.
        error_seconds: How long after its freshness it may stand in for a 5xx.
        cost_seconds: How long it took to make.
    """

    headers: Mapping[str, str]
    body: bytes
    made_at: float
    fresh_seconds: float
    stale_seconds: int
    error_seconds: int
    cost_seconds: float

    def age(self, now: float) -> int:
        """Whole seconds since it was made; a clock that is behind makes nobody younger than new."""
        return max(0, min(int(now - self.made_at), MOST_SECONDS))

    def ttl(self, now: float) -> float:
        """Seconds that are left of its freshness; negative once it is stale."""
        return self.fresh_seconds - max(0.0, now - self.made_at)

    def whole_ttl(self, now: float) -> int:
        """`ttl` in whole seconds, for Cache-Status."""
        return int(self.ttl(now) // 1)

    @property
    def kept_seconds(self) -> float:
        """How long it is of any use."""
        return self.fresh_seconds + max(self.stale_seconds, self.error_seconds)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The bytes to seal."""
    return _ENCODER.encode(entry)


def decode(plain: bytes) -> Entry | None:
    """The entry; None if another version of this program kept something else."""
    try:
        return _DECODER.decode(plain)
    except msgspec.MsgspecError:
        return None
