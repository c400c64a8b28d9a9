"""The consistent store is one Valkey, which dies, is full, or may lose what it promised to keep."""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
from tests.chaos.conftest import DURABLE
from tests.chaos.customer import Customer
from tests.chaos.stage import PAYMENTS, PURCHASES, Stage, ValkeyServer, stage_on
from tests.kube.processes import eventually

BOTH = [PURCHASES, PAYMENTS]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("redis") / "store", *DURABLE) as server:
        yield server


@pytest.fixture(scope="module")
def stage(store: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage_on(tmp_path_factory.mktemp("stage"), store.url) as stage:
        yield stage


def orders_of_both_kinds(stage):
    """Each of a customer of its own."""
    return [(customer, customer.order(path)) for path in BOTH for customer in [Customer(stage)]]


async def test_a_killed_store_has_everything_that_it_acknowledged(stage, store):
    """W7. Killed in the middle of it: what a customer was told before is told again, what nobody was told is found out."""
    attempts = []

    async def buy_until_it_fails(path, region):
        while True:
            customer = Customer(stage)
            order = customer.order(path)
            answer = await customer.send(region, order)
            attempts.append((customer, order, answer))
            if answer is None or answer.status_code != 201:
                return

    buying = [asyncio.create_task(buy_until_it_fails(path, region)) for path in BOTH for region in stage.regions for _ in range(3)]
    while len(attempts) < 30:
        await asyncio.sleep(0.005)
    store.program.kill()
    await asyncio.gather(*buying)
    store.start()

    assert {answer.status_code for _, _, answer in attempts if answer is not None} == {201, 503}
    for customer, order, told in attempts:
        answer = await customer.settle(order, *stage.regions)
        if told is not None and told.status_code == 201:
            assert (answer.content, answer.headers["Idempotent-Replayed"]) == (told.content, "true")
        assert await customer.effects(order) == [1]


async def test_a_full_store_takes_no_mutation_and_is_read_on(stage, store):
    """IDEM-16, B11: nothing is done that cannot be recorded."""
    before = [(customer, order, await customer.settle(order, *stage.regions)) for customer, order in orders_of_both_kinds(stage)]
    orders = orders_of_both_kinds(stage)
    with store.client() as client:
        client.config_set("maxmemory", 1)
        refused = [await customer.send(region, order) for customer, order in orders for region in stage.regions]
        effects = [await customer.effects(order) for customer, order in orders]
        replays = [await customer.send(region, order) for customer, order, _ in before for region in stage.regions]
        client.config_set("maxmemory", 0)
    after = [(customer, order, await customer.settle(order, *stage.regions)) for customer, order in orders]

    assert {(answer.status_code, answer.json()["type"].rpartition("/")[2]) for answer in refused} == {(503, "idempotency-unavailable")}
    assert effects == [[], []]
    assert [replay.content for replay in replays] == [answer.content for _, _, answer in before for _ in stage.regions]
    assert {answer.status_code for _, _, answer in after} == {201}
    assert [await customer.effects(order) for customer, order, _ in after] == [[1], [1]]


async def test_without_the_store_nothing_is_done_and_reads_of_limits_go_on(stage, store):
    """IDEM-16, B11, OPS-1."""
    orders = orders_of_both_kinds(stage)

    store.program.kill()
    refused = [await customer.send(region, order) for customer, order in orders for region in stage.regions]
    paths = ("/v1/usage", "/v1/tiers/pro", "/livez", "/readyz")
    reads = [await Customer(stage).get(region, path) for region in stage.regions for path in paths]
    store.start()

    assert {(answer.status_code, answer.json()["type"].rpartition("/")[2]) for answer in refused} == {(503, "idempotency-unavailable")}
    assert {answer.status_code for answer in reads} == {200}
    assert [await customer.effects(order) for customer, order in orders] == [[], []]


async def test_a_store_that_may_evict_makes_every_region_unready_and_gets_no_mutation(stage, store):
    """IDEM-18, W9: a result that was dropped to make room would be done again. Where nobody is ready, an edge asks everybody."""
    orders = orders_of_both_kinds(stage)
    with store.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        for region in stage.regions:
            eventually(lambda region=region: not region.is_ready(), seconds=15)
        refused = [await customer.send(region, order) for customer, order in orders for region in stage.regions]
        client.config_set("maxmemory-policy", "noeviction")
    stage.wait_until_ready()

    assert {(answer.status_code, answer.json()["type"].rpartition("/")[2]) for answer in refused} == {(503, "idempotency-unavailable")}
    assert [await customer.effects(order) for customer, order in orders] == [[], []]


async def test_a_store_that_comes_back_empty_is_refused_until_the_right_one_is_back(stage, store):
    """IDEM-19, W10: by workers that knew it and by new ones; nothing that was done is done again."""
    before = [(customer, order, await customer.settle(order, *stage.regions)) for customer, order in orders_of_both_kinds(stage)]
    orders = orders_of_both_kinds(stage)
    kept = store.folder / "appendonlydir"

    store.program.kill()
    kept.rename(kept.with_name("aside"))
    store.start()
    answers = [await customer.send(region, order) for customer, order, _ in before for region in stage.regions]
    here, there = stage.regions
    there.kill()
    there.start()
    eventually(lambda: there.is_live() and not here.is_ready() and not there.is_ready(), seconds=30)
    answers += [await customer.send(region, order) for customer, order in orders for region in stage.regions]
    charged = [await customer.effects(order) for customer, order in [*(one[:2] for one in before), *orders] if order.path == PAYMENTS]
    store.program.kill()
    shutil.rmtree(kept)
    kept.with_name("aside").rename(kept)
    store.start()
    stage.wait_until_ready()

    assert {(answer.status_code, answer.json()["type"].rpartition("/")[2]) for answer in answers} == {(503, "idempotency-unavailable")}
    assert charged == [[1], []]
    for customer, order, told in before:
        answer = await customer.settle(order, *stage.regions)
        assert (answer.content, answer.headers["Idempotent-Replayed"]) == (told.content, "true")
        assert await customer.effects(order) == [1]
