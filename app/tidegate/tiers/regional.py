"""What the tier source says to the region's Redis: read the tiers, listen for changes, report and withdraw; called by `source.py`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from tidegate.connections.connect import RegionalRedis
from tidegate.contract import keys
from tidegate.contract.errors import TidegateError

SILENT_MILLISECONDS = 10_000
"""Ten missed heartbeats: a worker that is only slow stays on the roster."""
CALL_SECONDS = 2.0
"""Longest time for any one call, whatever the client's own timeouts are."""


def _script(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


class RegionUnreachableError(TidegateError):
    """The region's Redis does not answer, or not as it must."""


@dataclass(frozen=True, slots=True)
class Region:
    """The region's revision, None if it has none, and the number of its workers, the asking one included."""

    revision: int | None
    workers: int


@dataclass(frozen=True, slots=True)
class Published:
    """The texts of all tiers as they were at one revision."""

    revision: int
    texts: Mapping[str, bytes]


class RegionalTiers:
    """One worker's side of the tier keys.

    Every method raises `RegionUnreachableError` when Redis does not answer in time or as it must.

    Args:
        redis: Client of the region's Redis, returning bytes.
        worker_id: Unique name of this worker on the roster.
    """

    def __init__(self, redis: RegionalRedis, *, worker_id: str) -> None:
        self._redis = redis
        self._worker_id = worker_id
        self._heartbeat = redis.register_script(_script("heartbeat.lua"))
        self._read = redis.register_script(_script("read.lua"))
        self._withdraw = redis.register_script(_script("withdraw.lua"))

    def channel(self) -> PubSub:
        """A subscription yet to be opened with `subscribe`; close it by leaving its context."""
        return self._redis.pubsub()

    async def subscribe(self, channel: PubSub) -> None:
        """Listen for changes of the tiers; on return Redis has confirmed, so nothing published later is missed."""
        async with _call():
            await channel.subscribe(keys.TIERS_CHANNEL)
            while not await channel.get_message(timeout=CALL_SECONDS):
                pass

    async def wait(self, channel: PubSub, seconds: float) -> None:
        """Return at the next message, or after `seconds` without one."""
        async with _call(seconds + CALL_SECONDS):
            await channel.get_message(ignore_subscribe_messages=True, timeout=seconds)

    async def read(self) -> Published | None:
        """The tiers and their revision, of one instant; None while the region has no revision, as after a flush."""
        async with _call():
            revision, texts = await self._read(keys=[keys.TIERS, keys.REVISION])
            if revision is None:
                return None
            names = (name.decode(errors="replace") for name in texts[::2])
            return Published(int(revision), dict(zip(names, texts[1::2], strict=True)))

    async def report(self, revision: int, *, ready: bool, deciding: bool) -> Region:
        """Say what this worker enforces, and hear how the region is."""
        flags = ("true" if flag else "false" for flag in (ready, deciding))
        arguments: list[str | int] = [self._worker_id, revision, *flags, keys.WORKERS_CHANNEL, SILENT_MILLISECONDS]
        async with _call():
            found, workers = await self._heartbeat(keys=[keys.WORKERS, keys.REVISION], args=arguments)
            return Region(None if found is None else int(found), int(workers))

    async def withdraw(self) -> None:
        """Leave the roster and say so."""
        async with _call():
            await self._withdraw(keys=[keys.WORKERS], args=[self._worker_id, keys.WORKERS_CHANNEL])


@asynccontextmanager
async def _call(seconds: float = CALL_SECONDS) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except (RedisError, OSError, TimeoutError, ValueError) as ex:
        raise RegionUnreachableError(f"{type(ex).__name__}: {ex}") from ex
