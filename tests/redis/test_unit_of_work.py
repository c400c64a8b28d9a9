"""What a handler reads is what its commit is held to, on a real Valkey."""

import asyncio

from tidegate.idempotency.unit_of_work import UnitOfWork
from tidegate.store.base import Conflict, Write
from tidegate.store.redis import RedisStore


class Hesitant:
    """A store whose second read begins only when it is told to."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._reads = 0
        self.told = asyncio.Event()
        self.commit = store.commit

    async def read(self, keys, *, or_stale=False):
        self._reads += 1
        if self._reads == 2:
            await self.told.wait()
        return await self._store.read(keys, or_stale=or_stale)


async def test_two_reads_of_a_key_at_once_give_one_value_which_the_commit_is_held_to(store):
    """Else the version of the later one would vouch for the value of the earlier, which another commit has replaced."""
    await store.commit({}, [Write("a", b"1")])
    hesitant = Hesitant(store)
    unit = UnitOfWork(hesitant, {})
    first, second = [asyncio.create_task(unit.read("a")) for _ in range(2)]
    value = await first
    await store.commit({}, [Write("a", b"2")])
    hesitant.told.set()

    assert await second == value == b"1"
    assert await unit.commit({}, [Write("b", b"1")]) == Conflict(("a",))
