"""The act of the tour in which more is asked than the seats can do, with the three tiers on one screen; called by `tour.py`."""

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidegate.local.crowd import Crowd, Customer, Payment
from tidegate.local.errors import LocalRunError
from tidegate.local.keys import Grant
from tidegate.local.programs import WORKERS_PER_REGION
from tidegate.local.screen import Screen
from tidegate.local.stage import Stage, done, expect, title

SECONDS = 4.0
"""Long enough for the first of the free tier to have waited as long as they may, which is 2 s."""
PAYMENT_SECONDS = 0.4
"""That the payment provider takes for a charge; the payment holds its seat meanwhile."""
LEAST_GOODPUT = 0.5
"""Of what the seats can do, on a machine that is busy with other things; a queue that collapses does next to nothing."""
LINE = "  {:<12}{:>7}{:>10}{:>9}{:>9}{:>15}{:>9}"
NOW = ("last second", "asked", "admitted", "waiting", "refused", "longest queue", "p99")
TOTAL = ("in all", "asked", "admitted", "queued", "refused", "longest queue", "p99")


@dataclass(frozen=True, slots=True)
class Group:
    """The customers of a tier, each with so many payments in `SECONDS`."""

    tier: str
    customers: int
    payments: int


GROUPS = (Group("enterprise", 1, 12), Group("pro", 3, 100), Group("free", 3, 10))
"""No customer asks for more than its quota: what is refused is refused for want of a seat."""


def act_overload(stage: Stage) -> None:
    """Ask a region for several times what its seats can do, and see who waits.

    Raises:
        ExpectationError: An assertion failed.
        LocalRunError: The tour is to stop.
    """
    title("7. Almost three times what the seats can do: enterprise is quick, the free tier queues")
    with stage.slow_payments(PAYMENT_SECONDS):
        payments = asyncio.run(_watch(stage))
    problems = [payment.problem for payment in payments if payment.problem]
    expect(not problems, "every payment taken, or refused for want of a seat", f"{len(problems)} that were not, the first: {problems[:1]}")
    possible = stage.run.capacity.seats * WORKERS_PER_REGION / PAYMENT_SECONDS
    taken, enterprise, free = sum(payment.is_admitted for payment in payments), of_tier(payments, "enterprise"), of_tier(payments, "free")
    expect(taken >= LEAST_GOODPUT * possible * SECONDS, f"{LEAST_GOODPUT:.0%} of what the seats can do", taken)
    expect(all(payment.is_admitted for payment in enterprise), "every payment of enterprise taken", len(enterprise))
    expect(any(payment.is_admitted for payment in free), "some of the free tier's taken, as nobody starves", "none")
    expect(p99(enterprise) < longest_queue(free), "enterprise quicker than the free tier waits", (p99(enterprise), longest_queue(free)))
    done(
        f"seats for {possible:.0f} a second, asked for {len(payments) / SECONDS:.0f}: enterprise had all of its {len(enterprise)} in "
        f"{p99(enterprise):.1f} s; free waited up to {longest_queue(free):.1f} s, and had {sum(p.is_admitted for p in free)}"
    )


async def _watch(stage: Stage) -> Sequence[Payment]:
    crowd, screen = Crowd(stage.edges[0], _customers(stage), SECONDS), Screen()
    paying = asyncio.create_task(crowd.pay())
    while not paying.done():
        began = time.monotonic()
        await asyncio.wait({paying}, timeout=1.0)
        if stage.stop.is_set():
            paying.cancel()
            raise LocalRunError("stopped")
        screen.draw(table(crowd.payments, since=began))
    await paying
    screen.finish(table(crowd.payments))
    return crowd.payments


def _customers(stage: Stage) -> list[Customer]:
    return [
        Customer(group.tier, stage.run.keys.mint(Grant(group.tier, tenant=f"{group.tier}-{number}")), group.payments)
        for group in GROUPS
        for number in range(group.customers)
    ]


def table(payments: Sequence[Payment], since: float = -math.inf) -> list[str]:
    """A line for each tier: of what happened after `since` (monotonic seconds) and what waits now; in the end, of all."""
    is_end = since == -math.inf
    lines = [LINE.format(*(TOTAL if is_end else NOW))]
    for group in GROUPS:
        ours = of_tier(payments, group.tier)
        ended = [payment for payment in ours if since < payment.ended < math.inf]
        waiting = sum(p.queue_seconds > 0 for p in ours) if is_end else sum(p.ended == math.inf for p in ours)
        admitted, refused = (sum(getattr(payment, what) for payment in ended) for what in ("is_admitted", "is_refused"))
        times = (f"{longest_queue(ended):.1f} s", f"{p99(ended):.2f} s") if ended else ("", "")
        lines.append(LINE.format(group.tier, sum(payment.due > since for payment in ours), admitted, waiting, refused, *times))
    return lines


def of_tier(payments: Iterable[Payment], tier: str) -> list[Payment]:
    """Those of a tier."""
    return [payment for payment in payments if payment.tier == tier]


def longest_queue(payments: Iterable[Payment]) -> float:
    """Longest time, in seconds, that one of them was in a queue, admitted or not."""
    return max((payment.queue_seconds for payment in payments), default=0.0)


def p99(payments: Iterable[Payment]) -> float:
    """Seconds within which 99 % of those that were admitted had their answer, from when they were due; 0 if none was."""
    taken = sorted(payment.ended - payment.due for payment in payments if payment.is_admitted)
    return taken[math.ceil(0.99 * len(taken)) - 1] if taken else 0.0
