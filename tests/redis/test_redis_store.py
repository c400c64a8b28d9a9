"""The consistent store on Redis beyond the contract (tests/store): what it may lose, and servers that fail."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.conftest import DURABLE

from tidegate.store.base import Committed, ConsistentStore, Write
from tidegate.store.errors import StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.redis import RedisStore

ROOT = Path(__file__).parents[2]


async def put(store: ConsistentStore, key: str, value: bytes) -> None:
    assert isinstance(await store.commit({}, [Write(key, value)]), Committed)


async def test_a_retention_of_a_day_reaches_the_server(store, redis):
    await store.commit({}, [Write("a", b"1", retention_seconds=86_400)])

    assert 86_390_000 < await redis.pttl("tg:1:store:value:a") <= 86_400_000


async def answers_unavailable(store: ConsistentStore) -> None:
    for call in (store.read(["a"]), store.commit({}, [Write("a", b"1")]), store.check()):
        with pytest.raises(StoreUnavailableError):
            await call


async def test_a_dead_server_is_unavailable(valkeys):
    server = valkeys()
    store = RedisStore(server.client())
    await put(store, "a", b"1")
    server.kill()

    await answers_unavailable(store)
    await store.close()


async def test_a_frozen_server_is_unavailable_within_the_timeout(valkeys):
    server = valkeys()
    store = RedisStore(server.client(timeout=0.1))
    server.freeze()

    await asyncio.wait_for(answers_unavailable(store), 3)
    await store.close()


async def test_a_full_server_is_unavailable_and_keeps_what_it_has(valkeys):
    server = valkeys("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    store = RedisStore(server.client())
    await put(store, "a", b"1")

    async def fill() -> None:
        for number in range(100):
            await store.commit({}, [Write(f"full-{number}", b"x" * 1_000_000)])

    with pytest.raises(StoreUnavailableError):
        await fill()

    assert (await store.read(["a"]))["a"].value == b"1"
    await store.close()


async def test_a_server_that_keeps_everything_passes_the_check(valkeys):
    store = RedisStore(valkeys(*DURABLE).client())

    await store.check()
    await store.close()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--appendonly", "no"), "aof_enabled"),
        (("--appendonly", "yes"), "appendfsync is everysec"),
        ((*DURABLE, "--no-appendfsync-on-rewrite", "yes"), "no-appendfsync-on-rewrite is yes"),
        ((*DURABLE, "--maxmemory-policy", "allkeys-lru"), "maxmemory_policy"),
    ],
)
async def test_a_server_that_may_lose_results_fails_the_check(valkeys: Callable, arguments, field):
    """IDEM-18."""
    store = RedisStore(valkeys(*arguments).client())

    with pytest.raises(StoreMisconfiguredError, match=field):
        await store.check()
    await store.close()


async def test_where_settings_cannot_be_asked_the_rest_is_checked(valkeys: Callable):
    """The user of docs/store.md without `config|get`, as on a server that somebody else runs."""
    [line] = re.findall(r"^ACL (SETUSER tidegate-store .*)$", (ROOT / "docs/store.md").read_text(), re.MULTILINE)
    server = valkeys("--appendonly", "yes")
    async with server.client() as redis:
        await redis.execute_command("ACL", *line.replace("PASSWORD", "secret").split())
        store = RedisStore(Redis(port=server.port, username="tidegate-store", password="secret"))
        with pytest.raises(StoreMisconfiguredError, match="appendfsync"):
            await store.check()

        await redis.execute_command("ACL", "SETUSER", "tidegate-store", "-config|get")
        await store.check()
        await put(store, "a", b"1")
        await store.commit({}, [Write("a", None), Write("b", b"1", retention_seconds=60)])
        assert set(await store.read(["a", "b"])) == {"b"}
    await store.close()
