"""Customers order from both regions while something breaks every ten seconds: what they saw can be, and nothing is lost or done twice.

`CHAOS_MINUTES` says for how long, one by default.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from tests.chaos.conftest import DURABLE, etcd
from tests.chaos.customer import SETTLING_SECONDS, Customer, Order
from tests.chaos.history import Operation, Saw, is_linearizable
from tests.chaos.partition import DivisibleCluster
from tests.chaos.stage import PAYMENTS, PURCHASES, Region, Stage, ValkeyServer, stage_on

MINUTES = float(os.environ.get("CHAOS_MINUTES", "1"))
FAULT_SECONDS, CALM_SECONDS = 4.0, 6.0
SHOPPERS, CUSTOMERS = 6, 3
PROVIDER_FAULTS = ("refuse", "fail", "fail_after_charging", "drop_reply", "garbage")


@dataclass
class Bought:
    """An order, and everything that was seen of it."""

    customer: Customer
    order: Order
    history: list[Operation] = field(default_factory=list)
    answers: set[bytes] = field(default_factory=set)

    async def attempt(self, region: Region) -> bool:
        """Whether this was the last that is needed."""
        called = time.monotonic()
        answer = await self.customer.send(region, self.order)
        self.history.append(seen(answer, called, time.monotonic()))
        is_final = answer is not None and answer.status_code == 201
        if answer is not None and is_final:
            self.answers.add(answer.content)
        return is_final


def seen(answer: httpx.Response | None, called: float, answered: float) -> Operation:
    if answer is None or answer.status_code == 503:
        return Operation(called, answered, Saw.NO_ANSWER)
    if answer.status_code == 409:
        return Operation(called, answered, Saw.NOTHING)
    assert answer.status_code == 201, answer.text
    return Operation(called, answered, Saw.WRITTEN if "Idempotent-Replayed" in answer.headers else Saw.ITS_OWN, answer.content)


async def shop(stage: Stage, customers: list[Customer], until: float, bought: list[Bought]) -> None:
    """Order one thing after the other; each from wherever it goes on, sometimes from both regions at once."""
    while time.monotonic() < until:
        # The machine has more to do than to be ordered from.
        await asyncio.sleep(random.uniform(0, 0.2))
        one = Bought(customer := random.choice(customers), customer.order(random.choice([PURCHASES, PAYMENTS])))
        bought.append(one)
        if one.order.path == PAYMENTS and random.random() < 0.1:
            await asyncio.to_thread(stage.provider.fail, random.choice(PROVIDER_FAULTS))
        is_done = any(await asyncio.gather(*(one.attempt(region) for region in random.choices(stage.regions, k=random.choice([1, 1, 2])))))
        while not is_done and time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.05, 0.3))
            is_done = await one.attempt(random.choice(stage.regions))
        if random.random() < 0.3:
            # Whoever asks again must never be told less.
            await one.attempt(random.choice(stage.regions))


@dataclass(frozen=True)
class Breakable:
    """A store by the URL that each region has of it, the ways to break it, how to begin to mend it, and how to wait until it is mended."""

    urls: tuple[str, str]
    ways: tuple[Callable[[], object], ...]
    mend: Callable[[], None]
    wait: Callable[[], None]


@contextmanager
def breakable_redis(folder: Path) -> Iterator[Breakable]:
    with ValkeyServer(folder / "store", *DURABLE) as server:

        def mend() -> None:
            server.program.send(signal.SIGCONT)
            if server.program.has_ended():
                server.program.start()

        ways = (server.program.kill, lambda: server.program.send(signal.SIGSTOP))
        yield Breakable((server.url, server.url), ways, mend, server.wait_until_ready)


@contextmanager
def breakable_etcd(folder: Path) -> Iterator[Breakable]:
    with DivisibleCluster(etcd(), folder / "store") as cluster:

        def kill_two() -> None:
            for member in cluster.members[:2]:
                member.kill()

        ways = (
            lambda: cluster.leader().kill(),
            lambda: cluster.cut_off(cluster.leader()),
            lambda: cluster.leader().freeze(),
            kill_two,
        )
        first, second, third = cluster.members
        # A region that still hears the one that is cut off meets one that hears the others.
        urls = cluster.url_of(first, second, third), cluster.url_of(second, third, first)
        yield Breakable(urls, ways, cluster.mend, cluster.wait)


async def break_things(stage: Stage, store: Breakable, until: float) -> int:
    """One thing after the other, each for a while; how many there were."""

    def kill_a_worker() -> None:
        os.kill(random.choice(random.choice(stage.regions).workers()), signal.SIGKILL)

    number = 0
    for breaks in cycle([*store.ways, kill_a_worker, lambda: random.choice(stage.regions).kill()]):
        if time.monotonic() + FAULT_SECONDS > until:
            return number
        breaks()
        number += 1
        await asyncio.sleep(FAULT_SECONDS)
        mended = time.monotonic()
        mend(stage, store)
        await asyncio.to_thread(wait, stage, store)
        await asyncio.sleep(CALM_SECONDS - (time.monotonic() - mended))
    return number


def mend(stage: Stage, store: Breakable) -> None:
    store.mend()
    for region in stage.regions:
        if region.program.has_ended():
            region.start()


def wait(stage: Stage, store: Breakable) -> None:
    store.wait()
    stage.wait_until_ready()


@pytest.mark.timeout(MINUTES * 150 + 120)
@pytest.mark.parametrize("breakable", [breakable_redis, breakable_etcd], ids=["redis", "etcd"])
async def test_under_faults_every_order_has_one_effect_and_everybody_is_told_the_same(tmp_path, breakable):
    """IDEM-15, IDEM-26; and the balances are the sums of what was bought."""
    seed = random.randrange(1_000_000)
    random.seed(seed)
    bought: list[Bought] = []
    with breakable(tmp_path) as store, stage_on(tmp_path, *store.urls, workers=2) as stage:
        customers = [Customer(stage, timeout_seconds=5) for _ in range(CUSTOMERS)]
        until = time.monotonic() + MINUTES * 60
        shopping = [shop(stage, customers, until, bought) for _ in range(SHOPPERS)]
        faults, *_ = await asyncio.gather(break_things(stage, store, until), *shopping)
        stage.provider.recover()
        left = iter(bought)
        await asyncio.gather(*(finish(stage, left) for _ in range(SHOPPERS)))

        print(f"seed {seed}: {len(bought)} orders, {sum(len(one.history) for one in bought)} attempts, {faults} faults")
        assert faults >= int(MINUTES * 6) - 1
        assert [one for one in bought if not is_linearizable(one.history)] == []
        assert [one for one in bought if len(one.answers) != 1] == []
        await assert_sums(stage, customers, bought)


async def finish(stage: Stage, left: Iterator[Bought]) -> None:
    """Ask for one order after the other, once more at least, until there is a final answer."""
    for one in left:
        deadline = time.monotonic() + SETTLING_SECONDS
        while not await one.attempt(random.choice(stage.regions)):
            assert time.monotonic() < deadline, f"{one} is not settled"
            await asyncio.sleep(0.3)


async def assert_sums(stage: Stage, customers: list[Customer], bought: list[Bought]) -> None:
    payments = sorted(one.order.amount for one in bought if one.order.path == PAYMENTS)
    charges = stage.provider.charges()

    assert [len(effect) for effect in charges] == [1] * len(payments)
    assert sorted(effect[0]["amount"] for effect in charges) == payments
    for customer in customers:
        own = [one for one in bought if one.customer is customer]
        purchases = [one.order.amount for one in own if one.order.path == PURCHASES]
        account = await customer.account()
        assert (account["balance"], account["entries"]) == (sum(purchases), len(purchases))
