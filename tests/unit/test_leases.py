"""Which lease a value gets: one for many, none that would end too early, and not one for each who waits."""

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from tidegate.store.errors import StoreUnavailableError
from tidegate.store.leases import Leases

TIMEOUT_SECONDS = 30.0


class Etcd:
    """Grants leases 1, 2, 3 ... when it is told to; `lifetimes` are those that were asked for."""

    timeout_seconds = TIMEOUT_SECONDS

    def __init__(self) -> None:
        self.lifetimes: list[int] = []
        self.grants = asyncio.Event()
        self.asked = asyncio.Event()
        self.now = 0.0
        self._names = count(1)

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.now + TIMEOUT_SECONDS

    async def call(self, path: str, body: dict[str, int], *_: object, **options: object) -> Any:
        self.lifetimes.append(body["TTL"])
        self.asked.set()
        await self.grants.wait()
        return SimpleNamespace(name=next(self._names))


@pytest.fixture
async def etcd() -> Etcd:
    return Etcd()


@pytest.fixture
async def leases(etcd: Etcd) -> Leases:
    return Leases(etcd)  # type: ignore[arg-type]  # of a gateway no more is used


async def take(leases: Leases, etcd: Etcd, *retentions: int | None) -> dict[int, int]:
    return dict(await leases.take(retentions, etcd.deadline()))


async def test_many_who_wait_get_one_lease(leases, etcd):
    waiting = [asyncio.create_task(take(leases, etcd, 3600)) for _ in range(50)]
    await etcd.asked.wait()
    etcd.grants.set()

    assert await asyncio.gather(*waiting) == [{3600: 1}] * 50
    assert etcd.lifetimes == [3600 + 900 + TIMEOUT_SECONDS]


async def test_each_retention_has_a_lease_and_for_ever_has_none(leases, etcd):
    etcd.grants.set()

    assert await take(leases, etcd, 60, None, 3600, 60) == {60: 1, 3600: 2}
    assert await take(leases, etcd, None) == {}


@pytest.mark.parametrize(("retention", "bucket"), [(4, 1), (3600, 900), (90_000, 3600), (2_592_000, 3600)])
async def test_a_lease_is_taken_until_its_bucket_has_passed(leases, etcd, retention, bucket):
    """However late in it, the rest of its life holds a whole retention and the deadline of a commit."""
    etcd.grants.set()
    assert await take(leases, etcd, retention) == {retention: 1}

    etcd.now = bucket * 0.9
    assert await take(leases, etcd, retention) == {retention: 1}

    etcd.now = bucket
    assert await take(leases, etcd, retention) == {retention: 2}
    assert etcd.lifetimes == [retention + bucket + TIMEOUT_SECONDS] * 2


async def test_who_joins_a_grant_that_is_late_does_not_take_it(leases, etcd):
    """It may have been granted when it was asked for, and so end before this value may."""
    early = asyncio.create_task(take(leases, etcd, 4))
    await etcd.asked.wait()
    etcd.now = 2
    late = asyncio.create_task(take(leases, etcd, 4))
    await asyncio.sleep(0)
    etcd.grants.set()

    assert (await early, await late) == ({4: 1}, {4: 2})


async def test_a_forgotten_lease_is_replaced_and_its_successor_is_not(leases, etcd):
    etcd.grants.set()
    lost = await take(leases, etcd, 60)
    leases.forget(lost)
    found = await take(leases, etcd, 60)
    leases.forget(lost)

    assert await take(leases, etcd, 60) == found != lost


async def test_who_gives_up_waiting_takes_nobody_elses_lease_along(leases, etcd):
    impatient = asyncio.create_task(leases.take([60], asyncio.get_running_loop().time() + 0.01))
    patient = asyncio.create_task(take(leases, etcd, 60))
    with pytest.raises(StoreUnavailableError):
        await impatient
    etcd.grants.set()

    assert await patient == {60: 1}


async def test_a_grant_that_failed_is_asked_for_again_by_the_next(leases, etcd, monkeypatch):
    async def refuse(*_: object, **options: object) -> None:
        raise StoreUnavailableError("no leader")

    etcd.grants.set()
    with monkeypatch.context() as patch:
        patch.setattr(etcd, "call", refuse)
        with pytest.raises(StoreUnavailableError):
            await take(leases, etcd, 60)

    assert await take(leases, etcd, 60) == {60: 1}
