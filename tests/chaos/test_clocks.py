"""The clock of one region is a day and an hour ahead, that of the other as much behind (IDEM-17): no claim and no result knows of it."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest
from tests.chaos.conftest import STORES, running_store
from tests.chaos.customer import Customer
from tests.chaos.stage import LEASE_SECONDS, PAYMENTS, PURCHASES, Stage, stage_on

from tidegate.idempotency.fault_points import FaultPoint

WRONG_SECONDS = 25 * 3600


@pytest.fixture(scope="module", params=STORES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("clocks")
    with running_store(request.param, folder) as url, stage_on(folder, url, ahead_seconds=(WRONG_SECONDS, -WRONG_SECONDS)) as stage:
        yield stage


@pytest.fixture(params=["from_the_future", "from_the_past"])
def regions(stage, request):
    """Where an order is sent first, and where it is sent again."""
    return stage.regions if request.param == "from_the_future" else stage.regions[::-1]


@pytest.mark.parametrize("path", [PURCHASES, PAYMENTS])
async def test_a_result_is_replayed_though_it_seems_two_days_older_or_younger(stage, regions, path):
    """A retention of a day, counted by workers, would be over, or would not have begun."""
    customer = Customer(stage)
    order = customer.order(path)

    first, again = [await customer.send(region, order) for region in regions]

    assert (first.status_code, again.content, again.headers["Idempotent-Replayed"]) == (201, first.content, "true")
    assert await customer.effects(order) == [1]


async def test_a_live_claim_is_respected_for_as_long_as_it_is_renewed(stage, regions):
    """B1, W5: a lease, counted by workers, would have ended two days ago, or last for two more."""
    here, there = regions
    customer = Customer(stage)
    order = customer.order(PAYMENTS)
    stage.provider.fail("hold")

    sent = asyncio.create_task(customer.send(here, order))
    while not await customer.effects(order):
        await asyncio.sleep(0.05)
    until, told = time.monotonic() + 2 * LEASE_SECONDS, []
    while time.monotonic() < until:
        told.append((await customer.send(there, order)).status_code)
        await asyncio.sleep(0.2)
    stage.provider.recover()
    answer = await sent

    assert set(told) == {409}
    assert answer.status_code == 201
    assert await customer.effects(order) == [1]


async def test_a_dead_claim_ends_as_soon_as_any(stage, regions):
    here, there = regions
    customer = Customer(stage)
    order = customer.order(PAYMENTS)
    here.arm(FaultPoint.EFFECT_DONE, signal.SIGKILL)

    lost = await customer.send(here, order)
    blocked, answer = await customer.send(there, order), await customer.settle(order, there)
    here.wait_until_ready()

    assert (lost, blocked.status_code, answer.status_code) == (None, 409, 201)
    assert await customer.effects(order) == [1]
