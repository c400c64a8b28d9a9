"""What the operator's queue works on first, and how often it comes back to a key."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator import work_queue
from tidegate_operator.work_queue import WorkQueue

RETRY_SECONDS = 0.05
"""Of every retry here, less the jitter."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_SECONDS", RETRY_SECONDS)
    monkeypatch.setattr(work_queue, "LONGEST_RETRY_SECONDS", RETRY_SECONDS)


class Work:
    """Counts its runs by key; what is in `failing` is never done."""

    def __init__(self, *failing: str) -> None:
        self.runs: Counter[str] = Counter()
        self.failing = set(failing)

    async def __call__(self, key: str) -> bool:
        self.runs[key] += 1
        return key not in self.failing


async def test_a_key_that_fails_and_is_added_many_times_comes_back_no_more_often_than_one_that_was_added_once():
    """A region that refuses to be written to for an hour, while every resync adds each tier once more."""
    work = Work("often", "once")
    queue = WorkQueue(work)
    serving = asyncio.create_task(queue.run())
    queue.add("once")
    for _ in range(100):
        before = work.runs["often"]
        queue.add("often")
        while work.runs["often"] == before:
            await asyncio.sleep(0)
    work.runs.clear()

    while work.runs["once"] < 10:
        await asyncio.sleep(RETRY_SECONDS / 10)

    serving.cancel()
    # Twice as often is what jitter may do.
    assert work.runs["often"] <= 2 * work.runs["once"] + 1


async def test_a_key_that_is_done_at_last_does_not_come_back():
    """Also where a retry of it waited when it was added."""
    work = Work("mended")
    queue = WorkQueue(work)
    serving = asyncio.create_task(queue.run())
    queue.add("mended")
    while not work.runs["mended"]:
        await asyncio.sleep(0)
    work.failing.clear()
    queue.add("mended")
    queue.add("later")
    while not work.runs["later"]:
        await asyncio.sleep(0)
    # What must not happen has no event to wait for: the retry that waited would have come by then.
    await asyncio.sleep(2 * RETRY_SECONDS)

    serving.cancel()
    assert work.runs["mended"] == 2


class SlowWork:
    """Notes each key that is begun, and goes on with the one that has run for longest at `finish`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.running: dict[str, asyncio.Event] = {}

    async def __call__(self, key: str) -> bool:
        assert key not in self.running, "run twice at a time"
        self.begun.append(key)
        end = self.running[key] = asyncio.Event()
        await end.wait()
        return True

    def finish(self) -> None:
        if self.running:
            self.running.pop(next(iter(self.running))).set()


async def settle() -> None:
    """Let the queue do all that it can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_goes_first_waits_for_none_that_does_not():
    work = SlowWork()
    queue = WorkQueue(work, concurrency=1)
    serving = asyncio.create_task(queue.run())
    for key in ("running", "one", "two", "three"):
        queue.add(key)
    await settle()

    queue.add("two", first=True)
    queue.add("event", first=True)
    queue.add("two")
    for _ in range(5):
        work.finish()
        await settle()

    serving.cancel()
    assert work.begun == ["running", "two", "event", "one", "three"]


STEPS = st.lists(st.none() | st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=40)
"""A run ends (None), or a key is added, first or not."""


@given(STEPS, st.integers(1, 3))
def test_no_key_is_lost_run_twice_at_a_time_or_overtakes_one_that_goes_first(steps: list[tuple[str, bool] | None], concurrency: int):
    asyncio.run(check(steps, concurrency))


async def check(steps: list[tuple[str, bool] | None], concurrency: int) -> None:
    work, owed, first = SlowWork(), set[str](), set[str]()
    queue = WorkQueue(work, concurrency=concurrency)
    serving = asyncio.create_task(queue.run())
    for step in [*steps, *[None] * len(steps)]:
        if step is None:
            work.finish()
        else:
            queue.add(step[0], first=step[1])
            owed.add(step[0])
            if step[1]:
                first.add(step[0])
        before, running = len(work.begun), set(work.running)
        await settle()
        for key in work.begun[before:]:
            assert key in owed, "run though nobody added it"
            assert key in first or not first - running - set(work.begun[before:]), "overtook one that goes first"
            owed.discard(key)
            first.discard(key)
        assert not owed - set(work.running) or len(work.running) == concurrency, "waits though there is room"

    serving.cancel()
    await asyncio.wait([serving])
    assert not owed
