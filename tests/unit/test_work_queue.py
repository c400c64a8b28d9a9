"""How often the operator's queue comes back to a key."""

import asyncio
from collections import Counter

import pytest

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
