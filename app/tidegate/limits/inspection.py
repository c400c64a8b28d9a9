"""What a region's Redis holds of usage, for people: looked at without a charge, or forgotten; called by `commands/usage.py`.

Read by the model of the script, not by the script: that one gives a vector the windows of the tier it is asked under, moves it while a key
is replaced, and is refused by a Redis that is full or read-only.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from redis import Redis, RedisError

from tidegate.connections.blocking import Primaries, slot_of
from tidegate.connections.url import RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import decode_tier
from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import Tier
from tidegate.limits import vector
from tidegate.limits.decision import WindowState
from tidegate.limits.shape import shapes_of
from tidegate.limits.vector import Ask

TIMEOUT_SECONDS = 2.0
BATCH_KEYS = 250
"""Redis looks at so many in a quarter of a millisecond, reads them in as much, and serves others in between."""
MOST_IDENTITIES = 1_000_000
"""Looked at by one `sweep`: some 100 MB here, and three minutes."""


class RegionUnreadableError(TidegateError):
    """The region's Redis does not answer, or not as it must."""


class Peeked(NamedTuple):
    """A window, and for how many seconds more it refuses any request of cost 1 that it counts; 0 if it does not."""

    state: WindowState
    wait_seconds: float


@dataclass(slots=True)
class Sweep:
    """How many identities were looked at, how many of them some window refuses now, and which; whether it ended before all were."""

    identities: int = 0
    refused: int = 0
    by_window: Counter[str] = field(default_factory=Counter)
    is_cut_short: bool = False


class RegionUsage:
    """Usage in the Redis at `url`. Every method raises `RegionUnreadableError`, whose text holds nothing of the URL.

    Args:
        region: Its name, for people.
        url: Its URL.
    """

    def __init__(self, region: str, url: RegionUrl) -> None:
        self.region = region
        self._primaries = Primaries(url, timeout_seconds=TIMEOUT_SECONDS)

    def tier_names(self) -> list[str]:
        """Names of the region's tiers."""
        with self._translated():
            found: Any = self._primaries.of(keys.TIERS).hkeys(keys.TIERS)
        return sorted(name.decode(errors="replace") for name in found)

    def tier(self, name: str) -> Tier | None:
        """The tier of that name, if the region has one."""
        with self._translated():
            text: Any = self._primaries.of(keys.TIERS).hget(keys.TIERS, name)
        return decode_tier(name, text).tier if text else None

    def peek(self, tids: tuple[str, ...], tier: Tier) -> list[Peeked]:
        """Every window of `tier` as the identity of these pseudonyms has used it, in whichever of its names that is kept."""
        names = [keys.usage(tid) for tid in tids]
        with self._translated(), self._primaries.of(names[0]).pipeline(transaction=False) as pipeline:
            # At one instant, as a vector may move from one to the other.
            pipeline.mget(names)
            pipeline.time()
            held, now = _timed(pipeline.execute())
        # As the script does: the preferred name counts, the other one only where that has nothing.
        return _peek(next(filter(None, held[0]), None), tier, now)

    def forget(self, tids: tuple[str, ...]) -> bool:
        """Forget all usage of an identity; whether there was any."""
        with self._translated():
            names = [keys.usage(tid) for tid in tids]
            return bool(self._primaries.of(names[0]).unlink(*names))

    def sweep(self, tier: Tier) -> Sweep:
        """How the identities of the region would fare under `tier` now, whatever their own tiers are."""
        sweep, seen = Sweep(), set[bytes]()
        for redis, batch in self._batches():
            # A scan may name a key twice; and repetitions are counted under no tier of the region.
            fresh = {name for name in batch if not name.endswith(keys.REPLAYS_SUFFIX.encode())} - seen
            seen |= fresh
            vectors, now = self._read(redis, list(fresh)) if fresh else ([], 0)
            for held in filter(None, vectors):
                refusing = [peeked.state.window.name for peeked in _peek(held, tier, now) if peeked.wait_seconds]
                sweep.identities += 1
                sweep.refused += bool(refusing)
                sweep.by_window.update(refusing)
            if len(seen) >= MOST_IDENTITIES:
                sweep.is_cut_short = True
                break
        return sweep

    def _batches(self) -> Iterator[tuple[Redis, list[bytes]]]:
        with self._translated():
            primaries = self._primaries.all()
        for redis in primaries:
            cursor = None
            while cursor != 0:
                with self._translated():
                    reply: Any = redis.scan(cursor or 0, match=keys.USAGES, count=BATCH_KEYS)
                cursor, batch = reply
                yield redis, batch

    def _read(self, redis: Redis, names: list[bytes]) -> tuple[list[bytes | None], int]:
        by_slot: dict[int, list[bytes]] = {}
        for name in names:
            by_slot.setdefault(slot_of(name), []).append(name)
        with self._translated(), redis.pipeline(transaction=False) as pipeline:
            for together in by_slot.values():
                pipeline.mget(together)
            pipeline.time()
            held, now = _timed(pipeline.execute())
        return list(chain.from_iterable(held)), now

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError) as ex:
            raise RegionUnreadableError(f"the Redis of {self.region} does not answer as it must: {type(ex).__name__}") from ex


def _timed(replies: list[Any]) -> tuple[list[Any], int]:
    *held, (seconds, microseconds) = replies
    return held, seconds * 1_000_000 + microseconds


def _peek(held: bytes | None, tier: Tier, now: int) -> list[Peeked]:
    asks = [Ask(shape, window.limit, check=1, charge=0) for shape, window in zip(shapes_of(tier.windows), tier.windows, strict=True)]
    readings = vector.decide(held, asks, now, count=0).readings
    return [
        Peeked(WindowState(window, reading.used, reading.reset / 1e6), reading.wait / 1e6)
        for window, reading in zip(tier.windows, readings, strict=True)
    ]
