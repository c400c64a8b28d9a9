"""One of many makes an entry, in a worker's memory and in a real lane: what is left of it afterwards."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tidegate.cache.entry import Entry
from tidegate.cache.lane import Lane, Place
from tidegate.cache.sealing import LaneKeys
from tidegate.cache.single_flight import Made, SingleFlight
from tidegate.contract.tier import Lane as LaneKind


class Origin:
    """A handler that waits until it is let go, and then does what it is told."""

    def __init__(self, outcome: Entry | str | Exception) -> None:
        self.outcome, self.calls, self.gate = outcome, 0, asyncio.Event()

    async def __call__(self) -> Entry | str:
        self.calls += 1
        await self.gate.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
async def lane(redis: Redis, valkey: Any) -> AsyncIterator[Lane]:
    own = Lane(LaneKind.SHARED, LaneKeys("shared", b"n" * 32, b"s" * 32), valkey.client(), timeout_seconds=2)
    yield own
    await own.aclose()


def entry() -> Entry:
    return Entry({}, b"made", time.time(), 60.0, 0, 0, 0.0)


async def crowd(flights: SingleFlight, lane: Lane, place: Place, origin: Origin, eventually: Any) -> list[asyncio.Task[Made]]:
    tasks = [asyncio.create_task(flights.fetch(lane, place, b"", origin)) for _ in range(50)]
    await eventually(lambda: origin.calls == 1)
    return tasks


@pytest.mark.parametrize("outcome", ["kept", "no-store", "failed", "cancelled", "invalidated"])
async def test_of_what_is_over_neither_a_worker_nor_the_lane_remembers_anything(
    redis: Redis, lane: Lane, outcome: str, eventually: Any
) -> None:
    """No flight, no task, no lease: whatever became of it."""
    flights, place = SingleFlight(), lane.place("acme", "/a")
    origin = Origin({"no-store": "no-store", "failed": RuntimeError("bug")}.get(outcome, entry()))
    tasks = await crowd(flights, lane, place, origin, eventually)
    if outcome == "cancelled":
        for task in tasks[:10]:
            task.cancel()
    if outcome == "invalidated":
        await lane.forget(place.key)
    origin.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert flights._flights == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert set(await redis.hkeys(place.key)) <= {place.variant}


async def test_when_the_one_that_asks_is_cancelled_one_other_asks(lane: Lane, eventually: Any) -> None:
    flights, place, origin = SingleFlight(), lane.place("acme", "/a"), Origin(entry())
    first, *others = await crowd(flights, lane, place, origin, eventually)
    first.cancel()
    origin.gate.set()

    made = await asyncio.gather(*others)

    assert first.cancelled()
    assert origin.calls == 2
    assert {each.entry.body for each in made if each.entry} == {b"made"}
