"""Reads of one turn of the event loop go to the store together."""

import asyncio
import gc
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import pytest

from tidegate.store.base import Committed, Conflict, Versioned, Write
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.gathered import MOST_KEYS, GatheredReads


class Asked:
    """A store that notes what it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.reads: list[tuple[list[str], bool]] = []
        self.values: dict[str, Versioned] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_lost = False

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        self.reads.append((list(keys), or_stale))
        found = {key: self.values[key] for key in keys if key in self.values}
        await self.may_answer.wait()
        if self.is_lost:
            raise StoreUnavailableError("lost")
        return found

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        return Committed(1)

    async def check(self) -> None:
        return None

    async def close(self) -> None:
        return None


@pytest.fixture
async def asked() -> Asked:
    return Asked()


@pytest.fixture
def store(asked: Asked) -> GatheredReads:
    return GatheredReads(asked)


async def test_all_who_ask_in_one_turn_share_a_call_and_each_gets_its_own_keys(asked: Asked, store: GatheredReads):
    asked.values = {key: Versioned(key.encode(), 1) for key in "abc"}

    found = await asyncio.gather(store.read(["a", "b"]), store.read(["b", "absent"]), store.read(["c"]))

    assert [list(one) for one in found] == [["a", "b"], ["b"], ["c"]]
    assert asked.reads == [(["a", "b", "absent", "c"], False)]


async def test_who_asks_while_a_call_is_under_way_is_not_answered_by_it(asked: Asked, store: GatheredReads):
    """Or it could miss what was committed in between."""
    asked.may_answer.clear()
    early = asyncio.create_task(store.read(["a"]))
    while not asked.reads:
        await asyncio.sleep(0)
    asked.values["a"] = Versioned(b"new", 2)
    late = asyncio.create_task(store.read(["a"]))
    await asyncio.sleep(0)
    asked.may_answer.set()

    assert (await early, await late) == ({}, {"a": Versioned(b"new", 2)})


async def test_who_asks_after_a_commit_sees_it_in_a_call_that_another_opened_before(asked: Asked, store: GatheredReads):
    early = asyncio.create_task(store.read(["a"]))
    await asyncio.sleep(0)
    asked.values["a"] = Versioned(b"committed", 1)

    assert await store.read(["a"]) == {"a": Versioned(b"committed", 1)}
    await early
    assert asked.reads == [(["a"], False)]


async def test_who_takes_old_values_does_not_share_a_call_with_who_does_not(asked: Asked, store: GatheredReads):
    await asyncio.gather(store.read(["a"]), store.read(["a"], or_stale=True))

    assert asked.reads == [(["a"], False), (["a"], True)]


async def test_a_call_has_no_more_keys_than_a_transaction_may_have(asked: Asked, store: GatheredReads):
    names = [f"{number}" for number in range(3 * MOST_KEYS)]

    await asyncio.gather(*(store.read(names[at : at + 3]) for at in range(0, len(names), 3)))

    assert sorted(name for keys, _ in asked.reads for name in keys) == sorted(names)
    assert max(len(keys) for keys, _ in asked.reads) <= MOST_KEYS


async def test_a_caller_that_is_cancelled_takes_nobody_along(asked: Asked, store: GatheredReads):
    asked.values["b"] = Versioned(b"b", 1)
    asked.may_answer.clear()
    leaving, staying = (asyncio.create_task(store.read([key])) for key in "ab")
    while not asked.reads:
        await asyncio.sleep(0)
    leaving.cancel()
    asked.may_answer.set()

    assert await staying == {"b": Versioned(b"b", 1)}
    assert leaving.cancelled()


async def test_a_store_that_does_not_answer_fails_all_who_asked_it_and_no_later_one(asked: Asked, store: GatheredReads):
    asked.is_lost = True
    answers = await asyncio.gather(store.read(["a"]), store.read(["b"]), return_exceptions=True)
    asked.is_lost = False

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 2
    assert await store.read(["a"]) == {}


async def test_a_call_that_fails_when_all_who_asked_are_gone_is_logged_by_nobody(asked: Asked, store: GatheredReads):
    """Clients hang up in an outage: a traceback for each of them would hide what matters."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    asked.may_answer.clear()
    asked.is_lost = True
    leaving = [asyncio.create_task(store.read([key])) for key in "ab"]
    while not asked.reads:
        await asyncio.sleep(0)
    for one in leaving:
        one.cancel()
    await asyncio.wait(leaving)
    asked.may_answer.set()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    # What nobody asked for is logged when the task is collected.
    del leaving, one
    gc.collect()

    assert complaints == []


async def test_where_tasks_begin_at_once_each_call_has_the_keys_of_its_caller(asked: Asked, store: GatheredReads):
    """As with `asyncio.eager_task_factory`, here by hand: the coroutine runs to its first wait before the task is returned."""
    asked.values = {key: Versioned(key.encode(), 1) for key in "ab"}
    asyncio.get_running_loop().set_task_factory(begun_at_once)

    assert list(await store.read(["a"])) == ["a"]
    assert list(await store.read(["b"])) == ["b"]


def begun_at_once(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Future[Any]:
    """A future of what `coroutine`, which does not wait, has returned already."""
    done: asyncio.Future[Any] = loop.create_future()
    try:
        coroutine.send(None)
    except StopIteration as ex:
        done.set_result(ex.value)
    return done
