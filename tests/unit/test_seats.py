"""The seats of one worker and those who wait, on an event loop but without HTTP."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from tidegate.admission.errors import NoSeatError
from tidegate.admission.seats import Seat, Seats
from tidegate.contract.tier import Admission, Tier

PATIENT = Admission(queue_max_wait_milliseconds=60_000)


def tier(name: str = "pro", admission: Admission = PATIENT, **fields: Any) -> Tier:
    made = Tier.from_spec(name, {"windows": [{"name": "minute", "limit": 9, "period": "1m"}]})
    return replace(made, admission=replace(admission, **fields))


PRO = tier()


def take(seats: Seats, identity: str, tier: Tier = PRO) -> Seat:
    seat = seats.take(identity, tier)
    assert seat is not None
    return seat


def begin(seats: Seats, identity: str, tier: Tier = PRO, **options: Any) -> asyncio.Task[Seat]:
    assert seats.take(identity, tier) is None
    return asyncio.create_task(seats.wait(identity, tier, **options))


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def is_idle(seats: Seats) -> bool:
    return (seats.taken, seats.waiting, len(seats._queue)) == (0, 0, 0)


async def test_a_seat_that_is_given_back_goes_to_whoever_waits():
    seats = Seats(1)
    first = take(seats, "a")
    second = begin(seats, "b")
    await settle()
    assert (seats.taken, seats.waiting) == (1, 1)

    first.leave()
    (await second).leave()

    assert is_idle(seats)
    assert seats.measures.requests == {("pro", "at_once"): 1, ("pro", "waited"): 1}


async def test_a_seat_is_given_back_once_however_often_it_is_left():
    seats = Seats(1)
    first = take(seats, "a")
    first.leave()
    second = take(seats, "b")

    first.leave()

    assert seats.take("c", PRO) is None
    with pytest.raises(NoSeatError):
        await seats.wait("c", tier(queue_max_depth=0))
    second.leave()
    assert is_idle(seats)


async def test_nobody_waits_longer_than_its_tier_and_its_client_allow():
    seats = Seats(1)
    seat = take(seats, "a")
    waits = {}
    for name, milliseconds, patience in (("tier", 60, 9.0), ("client", 9_000, 0.06)):
        asked = time.monotonic()
        with pytest.raises(NoSeatError) as refusal:
            await begin(seats, name, tier(queue_max_wait_milliseconds=milliseconds), patience_seconds=patience)
        waits[name] = time.monotonic() - asked
        assert refusal.value.reason == "expired"

    seat.leave()

    assert all(0.05 <= wait < 5 for wait in waits.values()), waits
    assert is_idle(seats)


@pytest.mark.parametrize(
    ("fields", "patience", "reason"),
    [
        ({"queue_max_wait_milliseconds": 0}, 9.0, "expired"),
        ({}, 0.0, "expired"),
        ({}, -1.0, "expired"),
        ({"queue_max_depth": 0}, 9.0, "full"),
    ],
)
async def test_whoever_may_not_wait_is_refused_at_once(fields: dict[str, int], patience: float, reason: str):
    seats = Seats(1)
    seat = take(seats, "a")

    with pytest.raises(NoSeatError) as refusal:
        await begin(seats, "b", tier(**fields), patience_seconds=patience)

    assert refusal.value.reason == reason
    assert sum(seats.measures.wait_seconds.counts) == 0
    seat.leave()
    assert is_idle(seats)


async def test_a_client_that_leaves_loses_its_place_at_once():
    seats, gone = Seats(1), asyncio.Event()
    seat = take(seats, "a")

    async def left() -> None:
        await gone.wait()

    leaving, staying = begin(seats, "b", left=left), begin(seats, "b", left=asyncio.Event().wait)
    await settle()
    gone.set()
    await settle()

    assert isinstance(leaving.exception(), NoSeatError)
    assert seats.waiting == 1
    seat.leave()
    (await staying).leave()
    assert is_idle(seats)


async def test_a_task_that_is_cancelled_keeps_neither_place_nor_seat():
    """Also in the very turn in which it is given one."""
    seats = Seats(1)
    for is_served_first in (False, True):
        seat = take(seats, "a")
        waiting = begin(seats, "b")
        await settle()
        if is_served_first:
            seat.leave()
        waiting.cancel()
        seat.leave()
        await settle()

        assert waiting.cancelled()
        assert is_idle(seats)


async def test_an_identity_never_runs_more_than_its_maximum_and_holds_up_nobody_else():
    seats, narrow = Seats(10), tier(max_in_flight=2)
    held = [take(seats, "a", narrow), take(seats, "a", narrow)]
    third = begin(seats, "a", narrow)
    await settle()

    take(seats, "b", narrow).leave()
    assert not third.done()
    held.pop().leave()
    held.append(await third)

    for seat in held:
        seat.leave()
    assert is_idle(seats)


async def test_an_edited_tier_that_lets_an_identity_run_more_lets_its_oldest_run_first():
    seats, narrow, wide = Seats(10), tier(max_in_flight=1), tier(max_in_flight=2)
    running = take(seats, "a", narrow)
    older = begin(seats, "a", narrow)
    await settle()

    newer = begin(seats, "a", wide)
    await settle()

    assert (older.done(), newer.done()) == (True, False)
    for seat in (running, await older):
        seat.leave()
    (await newer).leave()
    assert is_idle(seats)


async def test_a_worker_that_stops_refuses_who_waits_and_lets_finish_who_runs():
    seats = Seats(1)
    seat = take(seats, "a")
    waiting = [begin(seats, name) for name in "bcc"]
    await settle()

    seats.stop()
    await settle()

    assert [task.exception().reason for task in waiting] == ["stopping"] * 3  # type: ignore[union-attr]
    with pytest.raises(NoSeatError):
        await begin(seats, "d")
    seat.leave()
    take(seats, "d").leave()
    assert is_idle(seats)


async def test_equal_tenants_get_equal_seats_beside_one_that_asks_twenty_times_as_much():
    seats, served = Seats(2), dict.fromkeys(["heavy", *map(str, range(5))], 0)

    async def request(name: str) -> None:
        seat = seats.take(name, PRO) or await seats.wait(name, PRO)
        served[name] += 1
        await asyncio.sleep(0)
        seat.leave()

    async def tenant(name: str, at_once: int) -> None:
        while sum(served.values()) < 600:
            await asyncio.gather(*(request(name) for _ in range(at_once)))

    await asyncio.gather(*(tenant(name, 40 if name == "heavy" else 2) for name in served))

    shares = [served[name] for name in served if name != "heavy"]
    assert min(shares) > 0.9 * max(shares)
    assert served["heavy"] < 1.6 * max(shares)
    assert is_idle(seats)


async def test_seats_follow_the_latency_of_handlers():
    """The worker has more to give than its least seats: waiting requests are let in as soon as that shows."""
    seats = Seats(50, least=2)
    running = 0

    async def request(number: int) -> None:
        nonlocal running
        seat = seats.take(str(number % 7), PRO) or await seats.wait(str(number % 7), PRO)
        running += 1
        await asyncio.sleep(0.002)
        running -= 1
        seat.handler_seconds = 0.002
        seat.leave()

    async def caller(number: int) -> None:
        deadline = time.monotonic() + 20
        while seats.seats < 8 and time.monotonic() < deadline:
            await request(number)

    await asyncio.gather(*(caller(number) for number in range(30)))

    assert seats.seats >= 8
    assert is_idle(seats)
