"""A worker dies, or falls asleep, at each point of a mutation (IDEM-15): there is one effect, and everybody is told the same of it."""

import asyncio
import os
import signal
from collections import Counter

import pytest
from tests.chaos.customer import Customer
from tests.chaos.stage import PAYMENTS, PURCHASES
from tests.kube.processes import eventually

from tidegate.idempotency.fault_points import FaultPoint

EFFECT_OUTSIDE = {FaultPoint.CLAIMED, FaultPoint.RECONCILED, FaultPoint.EFFECT_DONE}
"""What a mutation without an effect outside of the store does not come to."""
CRASHES = [(path, point) for path in (PURCHASES, PAYMENTS) for point in FaultPoint if path == PAYMENTS or point not in EFFECT_OUTSIDE]
RECONCILED = {
    FaultPoint.CLAIMED: {False},
    FaultPoint.RECONCILED: {True},
    FaultPoint.EFFECT_DONE: {True},
    FaultPoint.BEFORE_COMMIT: {True},
}
"""Whether the provider had the effect when the retry asked it; after all other crashes there is nothing to ask."""


async def leave_an_unknown_outcome(stage, customer, order):
    """So that the next attempt reconciles."""
    stage.provider.fail("drop_reply")
    answer = await customer.send(stage.regions[0], order)
    assert answer.status_code == 503


async def assert_settled(stage, customer, order, answer):
    """One effect, and the same bytes for whoever asks again."""
    again = [await customer.send(region, order) for region in stage.regions]

    assert answer.status_code == 201
    assert [retry.content for retry in again] == [answer.content] * 2
    assert [retry.headers["Idempotent-Replayed"] for retry in again] == ["true"] * 2
    assert await customer.effects(order) == [1]


@pytest.mark.parametrize("retried", ["in_the_same_region", "in_the_other_region", "after_both_regions_restarted"])
@pytest.mark.parametrize(("path", "point"), CRASHES)
async def test_a_crash_leaves_nothing_or_one_effect(stage, path, point, retried):
    """W1, W3, W4, IDEM-12: what the next attempt does not find in the store it asks the provider for."""
    here, there = stage.regions
    customer = Customer(stage)
    order, before = customer.order(path), reconciled(stage)
    if point is FaultPoint.RECONCILED:
        await leave_an_unknown_outcome(stage, customer, order)
    here.arm(point, signal.SIGKILL)

    lost = await customer.send(here, order)
    died = here.victim()
    if retried == "after_both_regions_restarted":
        for region in stage.regions:
            region.kill()
            region.start()
        stage.wait_until_ready()
    elif retried == "in_the_same_region":
        eventually(lambda: died not in here.workers() and here.is_ready(), seconds=30)
    answer = await customer.settle(order, there if retried == "in_the_other_region" else here)

    assert lost is None
    await assert_settled(stage, customer, order, answer)
    assert set(reconciled(stage) - before) == (RECONCILED.get(point, set()) if path == PAYMENTS else set())


@pytest.mark.parametrize(("path", "point"), CRASHES)
async def test_a_worker_that_wakes_up_late_does_nothing_and_says_what_was_done(stage, path, point):
    """W5: stopped for longer than its lease, while another region finishes the mutation."""
    here, there = stage.regions
    customer = Customer(stage)
    order = customer.order(path)
    if point is FaultPoint.RECONCILED:
        await leave_an_unknown_outcome(stage, customer, order)
    here.arm(point, signal.SIGSTOP)

    sent = asyncio.create_task(customer.send(here, order))
    asleep = await asyncio.to_thread(here.victim)
    answer = await customer.settle(order, there)
    os.kill(asleep, signal.SIGCONT)
    late = await sent

    assert (late.status_code, late.content) == (answer.status_code, answer.content)
    await assert_settled(stage, customer, order, answer)


async def test_a_crash_while_the_provider_is_at_work_is_reconciled(stage):
    """W2: the effect was sent for, and nobody heard of it."""
    here, there = stage.regions
    customer = Customer(stage)
    order = customer.order(PAYMENTS)
    stage.provider.fail("hold")

    sent = asyncio.create_task(customer.send(here, order))
    await asyncio.to_thread(eventually, lambda: stage.provider.taken(order.amount), seconds=10)
    [worker] = here.workers()
    os.kill(worker, signal.SIGKILL)
    lost, blocked = await sent, await customer.send(there, order)
    answer = await customer.settle(order, there)

    assert lost is None
    assert (blocked.status_code, int(blocked.headers["Retry-After"])) == (409, 1)
    await assert_settled(stage, customer, order, answer)


@pytest.mark.parametrize("point", sorted(EFFECT_OUTSIDE))
async def test_a_mutation_without_an_effect_outside_takes_no_claim(stage, point):
    """So that none of its crashes leaves anything to wait for."""
    here, _ = stage.regions
    customer = Customer(stage)
    order = customer.order(PURCHASES)
    here.arm(point, signal.SIGKILL)

    answer = await customer.send(here, order)

    assert here.disarm(point)
    await assert_settled(stage, customer, order, answer)


@pytest.mark.parametrize(("path", "others"), [(PURCHASES, {201}), (PAYMENTS, {201, 409})])
async def test_of_fifty_identical_requests_to_two_regions_one_has_an_effect(stage, path, others):
    """IDEM-9: the others get its result, or are told to come back for it."""
    customer = Customer(stage)
    order = customer.order(path)

    answers = await asyncio.gather(*(customer.send(stage.regions[number % 2], order) for number in range(50)))

    done = [answer for answer in answers if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= others
    assert {answer.headers.get("Retry-After") for answer in answers} - {None} <= {"1"}
    assert [answer.headers.get("Idempotent-Replayed") for answer in done].count(None) == 1
    assert len({answer.content for answer in done}) == 1
    await assert_settled(stage, customer, order, done[0])


def reconciled(stage):
    """How many outcomes the workers of the stage have found, and how many of them not to be there."""
    return Counter(event["found"] for region in stage.regions for event in region.events("outcome reconciled"))
