"""One region's Redis as the operator uses it: read, fill, publish, retire, listen to workers; called by what carries and watches tiers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import Any, Self

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from tidegate.connections.connect import RegionalRedis, connect_region
from tidegate.connections.url import RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import Heartbeat, TierDocument, decode_heartbeat, encode_tier
from tidegate.contract.errors import InvalidDocumentError
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.observation import Observation, RegionView, region_view, stored_tier

_KEYS = (keys.TIERS, keys.REVISION)
_ALL = "return redis.call('HGETALL', KEYS[1])"
"""A script like all else, so that one way leads to the primary that holds the keys."""


def _script(name: str) -> str:
    return (files("tidegate_operator") / name).read_text()


class Publisher:
    """Carries tiers into one region. Every call ends within the client's timeout and raises RegionUnreachableError when Redis fails.

    Args:
        region: Name of the region.
        redis: Its client, without automatic retries, so that no call takes longer than its timeout says.
    """

    last_revision: int | None = None
    """The region's revision as far as the region watch and our own writes account for it; another one is somebody else's doing."""

    before_write: Callable[[], None] | None = None
    """Called right before each write, if set; does not return where another operator may act by now."""

    def __init__(self, region: str, redis: RegionalRedis) -> None:
        self.region = region
        self._redis = redis
        self._fill = redis.register_script(_script("fill.lua"))
        self._publish = redis.register_script(_script("publish.lua"))
        self._retire = redis.register_script(_script("retire.lua"))
        self._read = redis.register_script(_script("read.lua"))
        self._all = redis.register_script(_ALL)

    @classmethod
    def connect(cls, region: str, url: str, *, timeout_seconds: float) -> Self:
        """A publisher for the Redis at `url`; nothing is sent before the first call.

        Raises:
            ValueError: It is no URL of a Redis; no part of it is quoted.
        """
        return cls(region, connect_region(RegionUrl(url), timeout_seconds=timeout_seconds))

    async def view(self) -> RegionView:
        """The region's revision and its workers."""
        return (await self.read(None)).view or RegionView()

    async def read(self, name: str | None) -> Observation:
        """The region and its copy of tier `name`, all of one moment; a copy that cannot be read counts as absent.

        Where that is looked for and there is no tier at all, the revision counts as none.
        """
        with self._translated():
            reply = await self._read(keys=(*_KEYS, keys.WORKERS), args=[_field(name or "")])
        revision, workers, seconds, microseconds, stored = reply
        now_milliseconds = int(seconds) * 1000 + int(microseconds) // 1000
        view = region_view(_number(revision), _heartbeats(workers[1::2]), now_milliseconds=now_milliseconds)
        # Without a revision no worker loads the tiers, so what is stored counts as not published.
        copy = stored_tier(name, stored) if name and stored and view.revision is not None else None
        return Observation(self.region, view, copy)

    async def uids(self) -> dict[str, str]:
        """Names of all tiers that the region holds, with their uids; a uid that cannot be read is empty."""
        with self._translated():
            stored = await self._all(keys=[keys.TIERS])
        names = (field.decode(errors="surrogateescape") for field in stored[::2])
        return {name: stored_tier(name, text).uid for name, text in zip(names, stored[1::2], strict=True)}

    async def fill(self, documents: Sequence[TierDocument]) -> str:
        """Publish all tiers of a region without a revision, or without tiers: "filled", or "kept" when it has both (nothing changed)."""
        arguments: list[str | bytes | int] = [keys.TIERS_CHANNEL]
        with self._translated():
            # Without tiers it only loads the script, which a server that came back does not know: all of them would be sent twice.
            await self._fill(keys=_KEYS, args=arguments)
        for document in documents:
            arguments += [document.tier.name, encode_tier(document)]
        return await self._run(self._fill, arguments)

    async def publish(self, document: TierDocument) -> str:
        """Publish: "published", "equal" (it was there), "refused" (a newer generation of the same uid is there) or "empty" (to be filled).

        Only "published" changed anything.
        """
        arguments: list[str | bytes | int] = [
            document.tier.name,
            encode_tier(document),
            document.uid,
            document.generation,
            keys.TIERS_CHANNEL,
        ]
        return await self._run(self._publish, arguments)

    async def retire(self, name: str, uid: str) -> str:
        """Remove: "retired", "kept" when the tier is not there or belongs to another uid, or "empty" when there is no revision."""
        return await self._run(self._retire, [_field(name), uid, keys.TIERS_CHANNEL])

    @asynccontextmanager
    async def reports(self) -> AsyncIterator["Reports"]:
        """Listen to the region's workers for as long as the context lasts."""
        pubsub = self._redis.pubsub()
        try:
            with self._translated():
                await pubsub.subscribe(keys.WORKERS_CHANNEL)
            yield Reports(self, pubsub)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _run(self, script: Any, arguments: list[str | bytes | int]) -> str:
        if self.before_write:
            self.before_write()
        with self._translated():
            outcome, before, after = await script(keys=_KEYS, args=arguments)
        # Only an unbroken chain counts as our own: a write right after a flush must not hide the flush from the watch.
        if (int(before) or None) == self.last_revision:
            self.last_revision = int(after) or None
        return str(outcome.decode())

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as ex:
            # The class alone: the text of connection errors holds addresses.
            raise RegionUnreachableError(self.region, type(ex).__name__) from ex
        _raise_if_cancelled()


class Reports:
    """The stream of worker ids that began to enforce another revision."""

    def __init__(self, publisher: Publisher, pubsub: PubSub) -> None:
        self._publisher = publisher
        self._pubsub = pubsub

    async def wait(self, seconds: float) -> None:
        """Return at the next report, or after `seconds` without one."""
        with self._publisher._translated():
            await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=seconds)


def _raise_if_cancelled() -> None:
    # redis-py sends through asyncio.wait_for, which before Python 3.12 loses a cancellation that meets the end of the send.
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError


def _field(name: str) -> bytes:
    # A name that is not UTF-8 cannot be ours, and must be removable all the same.
    return name.encode(errors="surrogateescape")


def _number(text: bytes | None) -> int | None:
    # What is no number was not written by us; the next publication replaces it.
    return int(text) if text and text.isdigit() else None


def _heartbeats(texts: Sequence[bytes]) -> Iterator[Heartbeat]:
    for text in texts:
        try:
            yield decode_heartbeat(text)
        except InvalidDocumentError:
            continue
