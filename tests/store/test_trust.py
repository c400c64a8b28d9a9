"""A store that is not the one that it was is written to by nobody, in no region, until somebody accepts it (IDEM-19)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress

import pytest
from tests.conftest import DURABLE

from tidegate.store.base import ABSENT, Committed, Conflict, Write
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.incarnation import Incarnation
from tidegate.store.redis import RedisStore
from tidegate.store.regional import RegionalMemory
from tidegate.store.trust import KEY, TrustedStore, adopt

COMMIT = {"a": ABSENT}, [Write("a", b"1")]
NAMES = b"names"


@pytest.fixture
async def memories(valkeys) -> AsyncIterator[Callable[[], RegionalMemory]]:
    """Makes the memory of another region; its server is `memory.server`."""
    async with AsyncExitStack() as stack:

        def make() -> RegionalMemory:
            server = valkeys()
            client = server.client(timeout=10)
            stack.push_async_callback(client.aclose)
            memory = RegionalMemory(client)
            memory.server = server
            return memory

        yield make


async def empty(store) -> None:
    """As a new disk would."""
    await store.commit({}, [Write(KEY, None), Write("a", None)])


async def refuses(trusted: TrustedStore) -> None:
    with pytest.raises(StoreUnavailableError):
        await trusted.commit({}, [Write("refused", b"1")])
    with pytest.raises(StoreMisconfiguredError, match="adopt-store"):
        await trusted.verify()
    with pytest.raises(StoreUnavailableError, match="adopt-store"):
        await trusted.commit({}, [Write("refused", b"1")])
    assert await trusted.read(["refused"]) == {}


async def test_all_workers_of_all_regions_agree_on_the_mark_of_a_new_store(store, memories):
    frankfurt, dublin = memories(), memories()
    workers = [TrustedStore(store, memory, NAMES) for memory in (frankfurt, dublin) for _ in range(10)]

    results = await asyncio.gather(*(worker.commit({}, [Write(f"{n}", b"1")]) for n, worker in enumerate(workers)))

    assert all(isinstance(result, Committed) for result in results)
    mark = (await store.read([KEY]))[KEY].value
    assert await frankfurt.recall() == await dublin.recall()
    assert mark == (await dublin.recall()).encode()


async def test_a_conflict_is_told_as_by_the_store_itself(store, memories):
    trusted = TrustedStore(store, memories(), NAMES)
    await trusted.commit(*COMMIT)

    assert await trusted.commit(*COMMIT) == Conflict(("a",))


async def test_an_emptied_store_takes_no_commit_though_its_versions_began_anew(valkeys, memories):
    """Another worker has disputed it, or of another region taken it for new: its mark has the version that the one before had."""
    for memory_of_another_region in (False, True):
        server, memory = valkeys(*DURABLE), memories()
        async with server.client(timeout=10) as client:
            store = RedisStore(client)
            trusted = TrustedStore(store, memory, NAMES)
            await trusted.commit(*COMMIT)
            version = (await store.read([KEY]))[KEY].version
            server.flush()
            with suppress(StoreMisconfiguredError):
                await TrustedStore(store, memories() if memory_of_another_region else memory, NAMES).verify()
            assert (await store.read([KEY]))[KEY].version == version

            with pytest.raises(StoreUnavailableError):
                await trusted.commit(*COMMIT)

            assert await store.read(["a"]) == {}


async def test_a_mark_of_before_there_were_witnesses_is_trusted_and_gets_one(store, memories):
    frankfurt, mark = memories(), Incarnation.new()
    await store.commit({}, [Write(KEY, mark.encode())])
    workers = [TrustedStore(store, memory, NAMES) for memory in (frankfurt, memories()) for _ in range(3)]

    results = await asyncio.gather(*(worker.commit({}, [Write(f"{n}", b"1")]) for n, worker in enumerate(workers)))

    assert all(isinstance(result, Committed) for result in results)
    assert await frankfurt.recall() == mark
    assert (await store.read([KEY]))[KEY].value == mark.encode()


async def test_an_emptied_store_refuses_the_very_next_commit(store, memories):
    """Without a check in between: a retry would be done a second time."""
    trusted = TrustedStore(store, memories(), NAMES)
    assert isinstance(await trusted.commit(*COMMIT), Committed)
    await empty(store)

    with pytest.raises(StoreUnavailableError):
        await trusted.commit(*COMMIT)

    assert await store.read(["a"]) == {}
    await refuses(trusted)


async def test_that_a_store_is_another_is_told_before_what_else_ails_it(store, memories, monkeypatch):
    """Else a worker would be ready on a store that is both emptied and nearly full."""
    trusted = TrustedStore(store, memories(), NAMES)
    await trusted.verify()

    async def ails() -> None:
        raise StoreAilingError("nearly full")

    monkeypatch.setattr(store, "check", ails)
    with pytest.raises(StoreAilingError):
        await trusted.check()
    await empty(store)

    with pytest.raises(StoreMisconfiguredError):
        await trusted.check()


async def test_workers_that_meet_at_a_new_store_all_trust_the_mark_of_the_first(store, memories, monkeypatch):
    """One looks while the other makes it, and must not take the region's memory for one of another store."""
    memory = memories()
    recall = memory.recall

    async def recalled_late() -> object:
        monkeypatch.setattr(memory, "recall", recall)
        await TrustedStore(store, memory, NAMES).verify()
        return await recall()

    monkeypatch.setattr(memory, "recall", recalled_late)

    assert isinstance(await TrustedStore(store, memory, NAMES).commit(*COMMIT), Committed)


async def test_a_worker_that_starts_refuses_what_its_region_knows_to_be_another(store, memories):
    memory = memories()
    await TrustedStore(store, memory, NAMES).commit(*COMMIT)
    await empty(store)

    await refuses(TrustedStore(store, memory, NAMES))


async def test_a_worker_remembers_when_its_region_is_emptied_too(store, memories):
    memory = memories()
    trusted = TrustedStore(store, memory, NAMES)
    await trusted.commit(*COMMIT)
    memory.server.flush()
    await empty(store)

    await refuses(trusted)


async def test_a_region_that_remembers_nothing_takes_up_no_store_that_another_refuses(store, memories):
    frankfurt, dublin = memories(), memories()
    await TrustedStore(store, dublin, NAMES).commit(*COMMIT)
    await empty(store)
    await refuses(TrustedStore(store, dublin, NAMES))

    await refuses(TrustedStore(store, frankfurt, NAMES))
    assert await frankfurt.recall() is None


async def test_a_region_that_took_up_an_emptied_store_stops_once_another_has_looked(store, memories):
    frankfurt, dublin = memories(), memories()
    await TrustedStore(store, dublin, NAMES).commit(*COMMIT)
    await empty(store)
    taken = TrustedStore(store, frankfurt, NAMES)
    await taken.commit({}, [Write("b", b"1")])

    await refuses(TrustedStore(store, dublin, NAMES))

    await refuses(taken)


async def test_a_store_that_comes_back_is_trusted_again(store, memories):
    """As when a volume that was not mounted is."""
    trusted = TrustedStore(store, memories(), NAMES)
    await trusted.commit(*COMMIT)
    mark = (await store.read([KEY]))[KEY].value
    await empty(store)
    await refuses(trusted)

    await store.commit({}, [Write(KEY, mark)])

    assert isinstance(await trusted.commit(*COMMIT), Committed)


async def test_a_region_that_is_emptied_learns_the_mark_again(store, memories):
    memory = memories()
    await TrustedStore(store, memory, NAMES).commit(*COMMIT)
    known = await memory.recall()
    memory.server.flush()

    await TrustedStore(store, memory, NAMES).verify()

    assert await memory.recall() == known


async def test_one_adoption_is_followed_by_every_region(store, memories):
    frankfurt, dublin = memories(), memories()
    workers = [TrustedStore(store, memory, NAMES) for memory in (frankfurt, dublin)]
    for worker in workers:
        await worker.verify()
    before = (await store.read([KEY]))[KEY].value
    await empty(store)
    for worker in workers:
        await refuses(worker)

    adopted = await adopt(store, [frankfurt])

    for number, worker in enumerate(workers):
        assert isinstance(await worker.commit({}, [Write(f"{number}", b"1")]), Committed)
    assert await dublin.recall() == await frankfurt.recall() == adopted

    await store.commit({}, [Write(KEY, before)])
    await refuses(workers[0])


async def test_what_an_older_worker_says_does_not_undo_an_adoption(store, memories):
    memory = memories()
    await TrustedStore(store, memory, NAMES).verify()
    before = await memory.recall()
    adopted = await adopt(store, [memory])

    await memory.remember(before)

    assert await memory.recall() == adopted


async def test_without_its_region_a_new_worker_cannot_tell_and_one_that_serves_goes_on(store, memories):
    memory = memories()
    serving = TrustedStore(store, memory, NAMES)
    await serving.verify()
    memory.server.kill()

    assert isinstance(await serving.commit(*COMMIT), Committed)
    await serving.verify()
    with pytest.raises(StoreUnavailableError, match="region's Redis"):
        await TrustedStore(store, memory, NAMES).commit({}, [Write("b", b"1")])


async def test_a_worker_that_names_mutations_otherwise_writes_nothing(store, memories):
    """With another idempotency key it would find no result, and do every retry once more."""
    memory = memories()
    await TrustedStore(store, memory, NAMES).commit(*COMMIT)
    others = [TrustedStore(store, one, b"others") for one in (memory, memories())]
    for other in others:
        await refuses(other)

    await adopt(store, [memory])

    for number, other in enumerate(others):
        assert isinstance(await other.commit({}, [Write(f"{number}", b"1")]), Committed)
    await refuses(TrustedStore(store, memory, NAMES))


async def test_of_workers_that_name_mutations_differently_those_of_one_name_alone_begin_a_store(store, memories):
    workers = [TrustedStore(store, memories(), name) for name in (NAMES, b"others") for _ in range(3)]

    results = await asyncio.gather(*(worker.commit({}, [Write(f"{n}", b"1")]) for n, worker in enumerate(workers)), return_exceptions=True)

    are_done = [isinstance(result, Committed) for result in results]
    assert are_done in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)
    assert len(await store.read([f"{n}" for n in range(6)])) == 3


async def test_a_store_that_may_lose_results_is_written_to_by_nobody_until_that_is_mended(valkeys, memories):
    """IDEM-18, W9: by no worker that has just come either. That none is ready stops nobody where an edge asks all if none is."""
    server, memory = valkeys(*DURABLE), memories()
    async with server.client(timeout=10) as client:
        store = RedisStore(client)
        serving = TrustedStore(store, memory, NAMES)
        await serving.commit(*COMMIT)
        await client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreMisconfiguredError):
            await serving.check()

        for worker in (serving, TrustedStore(store, memory, NAMES)):
            with pytest.raises(StoreUnavailableError, match="maxmemory_policy"):
                await worker.commit({}, [Write("refused", b"1")])
        assert await store.read(["refused"]) == {}

        await client.config_set("maxmemory-policy", "noeviction")
        assert isinstance(await serving.commit({}, [Write("b", b"1")]), Committed)


async def test_what_ails_a_store_that_keeps_everything_holds_no_commit_back(store, memories, monkeypatch):
    async def ails() -> None:
        raise StoreAilingError("nearly full")

    monkeypatch.setattr(store, "check", ails)

    assert isinstance(await TrustedStore(store, memories(), NAMES).commit(*COMMIT), Committed)
