"""`Lane`: one cache memory on a Redis of its own, with a deadline on every call; opened by `lanes.py`, used by the steps of a request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeAlias, TypeVar, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError

from tidegate.cache.entry import Entry, decode, encode
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.sealing import HEADER_BYTES, LaneKeys
from tidegate.contract import keys
from tidegate.contract.tier import Lane as LaneKind

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

Connect: TypeAlias = Callable[[str], Redis]
"""Makes a client of a URL, with timeouts and without retries."""

T = TypeVar("T")

LEASE_MILLISECONDS = 2_000
"""Of whoever makes an entry; renewed meanwhile, so this is how long others wait for one that died."""
MOST_FIELDS = 512
"""Variants of a path, each with a lease at most: who varies more than that starts anew, and no path grows without bound."""
DOWN, FULL = "lane-down", "lane-full"
RETRY_SECONDS = 0.25
"""A lost lane is asked again this often by one request; all others do without it at once."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to a request is kept.

    Args:
        key: Of all that is kept of the path for the tenant.
        variant: Of the answer among those.
    """

    key: str
    variant: bytes

    @property
    def name(self) -> bytes:
        """What the entry is sealed for."""
        return self.key.encode() + self.variant


@dataclass(frozen=True, slots=True)
class Found:
    """What `Lane` has at a place.

    Args:
        entry: None: nothing, or nothing that can be opened.
        seen: First bytes of what is there, by which another one is told.
    """

    entry: Entry | None = None
    seen: bytes = b""


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer to `Lane.take`: another entry than the one seen, or whether the lease is ours.

    Args:
        found: The other entry.
        is_ours: We are to make the entry.
        has_others: There are other variants.
    """

    found: Found | None = None
    is_ours: bool = False
    has_others: bool = False


class Lane:
    """One cache memory. Every method but `aclose` raises LaneUnavailableError when Redis does not answer as it must.

    Args:
        kind: Shared or Dedicated.
        lane_keys: Names and seals what is in it.
        redis: Its client, with timeouts and without retries.
        timeout_seconds: Deadline of every call.
        tier: Of a dedicated lane, for people.
    """

    def __init__(self, kind: LaneKind, lane_keys: LaneKeys, redis: Redis, *, timeout_seconds: float, tier: str = "") -> None:
        self.kind = kind
        self.keys = lane_keys
        self._redis = redis
        self._timeout_seconds = timeout_seconds
        self.tier = tier
        self._retry_at = 0.0
        self._is_lost = False
        self._take, self._hold, self._store = (redis.register_script(_script(name)) for name in ("take", "hold", "store"))

    def place(self, tenant: str, path: str, *variant: object) -> Place:
        """Where the answer is kept that `tenant` gets at `path`, of all the one that `variant` tells."""
        return Place(self.key(tenant, path), self.keys.name("variant", *variant))

    def key(self, tenant: str, path: str) -> str:
        """Of all that is kept of `path` for `tenant`."""
        # Falcon routes a path with more slashes in front alike.
        return keys.cached(self.keys.text_name("tenant", tenant), self.keys.text_name("path", tenant, path.lstrip("/")))

    async def read(self, place: Place) -> Found:
        """What is there: one round trip."""
        field: Any = place.variant  # redis-py takes bytes, and says that it does not
        return self._opened(place, await self._ask(lambda: cast("Awaitable[bytes | None]", self._redis.hget(place.key, field))))

    async def take(self, place: Place, owner: str, seen: bytes) -> Taken:
        """Ask to be the one who makes the entry; `seen` is that of the entry which is to be replaced."""
        word, *rest = await self._ask(lambda: self._take(keys=[place.key], args=[place.variant, owner, LEASE_MILLISECONDS, seen]))
        if word == b"entry":
            return Taken(self._opened(place, rest[0]))
        return Taken(is_ours=word == b"taken", has_others=rest == [1])

    async def renew(self, place: Place, owner: str) -> bool:
        """Have the lease last for another while; False if it was lost."""
        return bool(await self._ask(lambda: self._hold(keys=[place.key], args=[place.variant, owner, LEASE_MILLISECONDS])))

    async def release(self, place: Place, owner: str) -> None:
        """End the lease without an entry."""
        await self._ask(lambda: self._hold(keys=[place.key], args=[place.variant, owner, 0]))

    async def store(self, place: Place, owner: str, entry: Entry) -> bool:
        """Keep the entry and end the lease; False if that was lost, as by an invalidation."""
        sealed = self.keys.seal(encode(entry), place.name)
        milliseconds = max(1, int(entry.kept_seconds * 1000))
        return bool(await self._ask(lambda: self._store(keys=[place.key], args=[place.variant, owner, sealed, milliseconds, MOST_FIELDS])))

    async def forget(self, *names: str | bytes) -> int:
        """Remove what is kept under these keys, and the leases on it: what is being made from older data is not kept either.

        Asked even while the lane counts as lost. Returns how many there were.
        """
        return int(await self._call(self._redis.unlink(*names)))

    async def forget_tenant(self, tenant: str) -> int:
        """Remove all that is kept for a tenant. Returns how many paths there were."""
        pattern, cursor, removed = keys.cached_of(self.keys.text_name("tenant", tenant)), 0, 0
        while True:
            cursor, names = await self._call(self._redis.scan(cursor, match=pattern, count=1_000))
            removed += await self.forget(*names) if names else 0
            if cursor == 0:
                return removed

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _opened(self, place: Place, sealed: bytes | None) -> Found:
        if sealed is None:
            return Found()
        plain = self.keys.open(sealed, place.name)
        return Found(decode(plain) if plain is not None else None, sealed[:HEADER_BYTES])

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._is_lost:
            now = time.monotonic()
            if now < self._retry_at:
                raise LaneUnavailableError(DOWN, "lost a moment ago")
            self._retry_at = now + RETRY_SECONDS
        try:
            reply = await self._call(call())
        except LaneUnavailableError as ex:
            if ex.detail == DOWN:
                self._lose(ex.reason)
            raise
        if self._is_lost:
            self._is_lost = False
            log.info("cache lane is back", lane=self.kind, tier=self.tier)
        return reply

    async def _call(self, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await call
        except OutOfMemoryError as ex:
            # It answers, and what it has can be read.
            raise LaneUnavailableError(FULL, type(ex).__name__) from ex
        except (RedisError, OSError, TimeoutError) as ex:
            # The class alone: the text of connection errors holds addresses.
            raise LaneUnavailableError(DOWN, type(ex).__name__) from ex

    def _lose(self, reason: str) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._is_lost:
            self._is_lost = True
            log.warning("cache lane lost, its tiers are served without", lane=self.kind, tier=self.tier, reason=reason)


def _script(name: str) -> Any:
    return (files("tidegate.cache") / f"{name}.lua").read_text()
