"""What a seat and a place in the queue cost a worker, without HTTP; printed by `overload.py`."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from tidegate.admission.fair_queue import FairQueue, Ticket
from tidegate.admission.seats import Seats
from tidegate.contract.tier import Admission, Tier

ROUNDS = 9
REPEATS = 20_000


def costs() -> dict[str, float]:
    """Microseconds of CPU, the least of some rounds: what else the machine does only adds."""
    figures = {f"put + pop, {identities:,} identities": _least(_queue(identities)) for identities in (10, 1_000)}
    figures["free seat, taken and left"] = _least(_free_seat)
    figures["wait for a seat and get it (task switch included)"] = min(asyncio.run(_waits()) for _ in range(3))
    return {name: round(microseconds, 2) for name, microseconds in figures.items()}


def _least(work: Callable[[], None]) -> float:
    def once() -> float:
        begin = time.thread_time()
        work()
        return (time.thread_time() - begin) / REPEATS * 1e6

    return min(once() for _ in range(ROUNDS))


def _queue(identities: int) -> Callable[[], None]:
    queue: FairQueue[Ticket] = FairQueue(0.05)
    admission = Admission(weight=3, max_in_flight=10_000_000, queue_max_depth=100)
    names = [f"identity-{number}" for number in range(identities)]
    for name in names:
        for _ in range(2):
            queue.put(Ticket(queue.flow(name, admission), 1, 1e9), 0.0)

    def work() -> None:
        for number in range(REPEATS):
            queue.put(Ticket(queue.flow(names[number % identities], admission), 1, 1e9), 0.0)
            queue.pop(0.0)

    return work


def _free_seat() -> None:
    seats, tier = Seats(100, default_tier="free", default_share=0.05), _tier()
    for _ in range(REPEATS):
        seat = seats.take("identity", tier)
        assert seat
        seat.leave()


async def _waits() -> float:
    seats, tier = Seats(1), _tier()
    took = []
    for _ in range(2_000):
        held = seats.take("a", tier)
        assert held
        begin = time.thread_time()
        waiting = asyncio.create_task(seats.wait("b", tier))
        await asyncio.sleep(0)
        held.leave()
        (await waiting).leave()
        took.append((time.thread_time() - begin) * 1e6)
    return statistics.median(took)


def _tier() -> Tier:
    made = Tier.from_spec("pro", {"windows": [{"name": "minute", "limit": 9, "period": "1m"}]})
    return replace(made, admission=Admission(max_in_flight=10_000))
