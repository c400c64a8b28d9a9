"""What every consistent store promises; one suite for all adapters."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tidegate.store.base import ABSENT, Committed, Conflict, ConsistentStore, Write
from tidegate.store.errors import StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.redis import RedisStore

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture(params=["valkey"])
async def store(request: pytest.FixtureRequest, valkey) -> AsyncIterator[ConsistentStore]:
    stores = {"valkey": lambda: RedisStore(valkey.client())}
    store = stores[request.param]()
    yield store
    await store.close()


async def put(store: ConsistentStore, key: str, value: bytes) -> int:
    """Set a key whatever it holds; the version."""
    result = await store.commit({}, [Write(key, value)])
    assert isinstance(result, Committed)
    return result.version


async def test_an_absent_key_is_missing_in_the_answer(store):
    await put(store, "a", b"1")

    assert set(await store.read(["a", "b"])) == {"a"}
    assert await store.read([]) == {}


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)), b"0" * 100_000])
async def test_a_value_comes_back_byte_for_byte_with_its_version(store, value):
    version = await put(store, "a", value)

    found = (await store.read(["a"]))["a"]
    assert (found.value, found.version) == (value, version)


async def test_keys_that_look_like_the_stores_own_are_ordinary_keys(store):
    for key in ("version", "value:", "", "é{}"):
        await put(store, key, key.encode())

    found = await store.read(["version", "value:", "", "é{}"])
    assert {key: item.value.decode() for key, item in found.items()} == {key: key for key in found}
    assert len(found) == 4


async def test_all_writes_of_a_commit_share_one_version(store):
    result = await store.commit({"a": ABSENT}, [Write("a", b"1"), Write("b", b"2")])

    found = await store.read(["a", "b"])
    assert [found["a"].version, found["b"].version] == [result.version] * 2


async def test_a_conflict_names_every_changed_key_and_writes_nothing(store):
    """All or nothing, whichever of the conditions fails."""
    version = await put(store, "a", b"1")
    await put(store, "b", b"1")

    result = await store.commit({"a": version, "b": ABSENT, "c": 7}, [Write("a", b"2"), Write("d", b"2")])

    assert result == Conflict(("b", "c"))
    found = await store.read(["a", "b", "c", "d"])
    assert {key: item.value for key, item in found.items()} == {"a": b"1", "b": b"1"}


async def test_a_key_that_was_only_read_guards_the_commit_too(store):
    version = await put(store, "read", b"1")
    await put(store, "read", b"2")

    assert await store.commit({"read": version}, [Write("a", b"1")]) == Conflict(("read",))


async def test_a_version_is_never_given_twice_not_even_after_a_deletion(store):
    """Else a writer that read before the deletion would overwrite what was created after it."""
    first = await put(store, "a", b"1")
    await store.commit({"a": first}, [Write("a", None)])
    second = await put(store, "a", b"1")

    assert second > first
    assert await store.commit({"a": first}, [Write("a", b"2")]) == Conflict(("a",))


async def test_a_deleted_key_is_absent(store):
    version = await put(store, "a", b"1")

    await store.commit({"a": version}, [Write("a", None)])

    assert await store.read(["a"]) == {}
    assert isinstance(await store.commit({"a": ABSENT}, [Write("a", b"2")]), Committed)


async def test_a_commit_that_is_sent_twice_takes_effect_once(store):
    """IDEM-20: what was expected has a new version after the first time."""
    arguments = {"a": ABSENT}, [Write("a", b"1"), Write("b", b"1")]
    first = await store.commit(*arguments)

    assert await store.commit(*arguments) == Conflict(("a",))
    assert (await store.read(["b"]))["b"].version == first.version


async def test_a_value_disappears_after_its_retention(store, eventually):
    await store.commit({}, [Write("short", b"1", retention_seconds=1), Write("long", b"1")])

    assert set(await store.read(["short", "long"])) == {"short", "long"}

    async def is_gone() -> bool:
        return set(await store.read(["short", "long"])) == {"long"}

    await eventually(is_gone)


async def test_racing_increments_are_all_counted(store):
    """Linearizable: no increment is lost, none counts twice."""

    async def increment() -> None:
        while True:
            found = (await store.read(["count"])).get("count")
            count = int(found.value) if found else 0
            expected = {"count": found.version if found else ABSENT}
            if isinstance(await store.commit(expected, [Write("count", b"%d" % (count + 1))]), Committed):
                return

    await asyncio.gather(*(increment() for _ in range(30)))

    assert (await store.read(["count"]))["count"].value == b"30"


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
        ((*DURABLE, "--maxmemory-policy", "allkeys-lru"), "maxmemory_policy"),
    ],
)
async def test_a_server_that_may_lose_results_fails_the_check(valkeys: Callable, arguments, field):
    """IDEM-18."""
    store = RedisStore(valkeys(*arguments).client())

    with pytest.raises(StoreMisconfiguredError, match=field):
        await store.check()
    await store.close()
