"""The consistent store on one Redis or Valkey primary: one MGET a read, one script a commit; made by `application.py`.

Durable with `appendonly yes`, `appendfsync always` and `noeviction`. With replicas, a failover may lose acknowledged commits.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tidegate.store.base import Committed, Conflict, Versioned, Write
from tidegate.store.errors import StoreMisconfiguredError, StoreUnavailableError

VERSION_KEY = "tg:1:store:version"
"""Counter: the version of the newest commit."""
VALUE_PREFIX = "tg:1:store:value:"
"""String per key: version in 16 digits, then the value. 16 digits hold every integer that Lua counts exactly."""
VERSION_DIGITS = 16

NOT_IN_INFO = {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
"""`always` alone is not: while the log is rewritten, the second setting would leave it to chance what is on disk."""
REQUIRED_SETTINGS = {"maxmemory_policy": "noeviction", "aof_enabled": "1", **NOT_IN_INFO}
"""Fields of INFO, and settings, without which an acknowledged commit may vanish (IDEM-18)."""
OLDEST_VERSION = (7, 0)
"""That the promises of `base.py` are tested on. Valkey calls itself 7.2."""


class RedisStore:
    """A `ConsistentStore` on `redis`, a client with explicit timeouts and no retries (a repeated script would hide an outcome)."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._commit = redis.register_script(resources.files(__package__).joinpath("commit.lua").read_text())

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`, all of one instant, and never stale: there is one server."""
        if not keys:
            return {}
        async with _translated():
            found = cast("list[bytes | None]", await self._redis.mget([VALUE_PREFIX + key for key in keys]))
        return {key: _versioned(stored) for key, stored in zip(keys, found, strict=True) if stored is not None}

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Write all or nothing in one script."""
        names = [*expected, *(write.key for write in writes)]
        arguments = [str(len(expected)).encode(), *map(_expected_argument, expected.values())]
        for write in writes:
            arguments += _write_arguments(write)
        async with _translated():
            reply = await self._commit(keys=[VERSION_KEY, *(VALUE_PREFIX + name for name in names)], args=arguments)
        version, *changed = map(int, reply)
        return Committed(version) if version else Conflict(tuple(names[position - 2] for position in changed))

    async def check(self) -> None:
        """Compare the server's settings with those that a durable store needs."""
        async with _translated():
            info: Mapping[str, Any] = await self._redis.info("everything")
            settings = {**info, **await self._configured()}
        wrong = [
            f"{field} is {settings.get(field)}, must be {wanted}"
            for field, wanted in REQUIRED_SETTINGS.items()
            if str(settings.get(field)) != wanted
        ]
        if tuple(map(int, str(info["redis_version"]).split(".")[:2])) < OLDEST_VERSION:
            wrong.append(f"redis_version is {info['redis_version']}, must be {'.'.join(map(str, OLDEST_VERSION))} or newer")
        if wrong:
            raise StoreMisconfiguredError("; ".join(wrong))

    async def close(self) -> None:
        """Close the client's connections."""
        async with _translated():
            await self._redis.aclose()

    async def _configured(self) -> Mapping[str, Any]:
        # Where CONFIG is denied or gone, as on managed servers, they are taken on trust.
        try:
            told: Mapping[Any, Any] = await self._redis.config_get(*NOT_IN_INFO)
        except ResponseError:
            return NOT_IN_INFO
        return {**NOT_IN_INFO, **told}


def _versioned(stored: bytes) -> Versioned:
    return Versioned(stored[VERSION_DIGITS:], int(stored[:VERSION_DIGITS]))


def _expected_argument(version: int) -> bytes:
    return f"{version:0{VERSION_DIGITS}}".encode() if version else b""


def _write_arguments(write: Write) -> list[bytes]:
    operation = b"delete" if write.value is None else b"set"
    return [operation, write.value or b"", str((write.retention_seconds or 0) * 1000).encode()]


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as ex:
        raise StoreUnavailableError(f"the consistent store did not answer: {type(ex).__name__}") from ex
