"""Two regions that share an etcd of three members, through the whole application: paid once, whichever member dies."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.redis.conftest import Issuer
from tests.redis.test_application import PURCHASES, bearer, lifespan, tier

from tidegate.application import create_app
from tidegate.contract import keys
from tidegate.contract.codec import encode_tier
from tidegate.settings import Settings

pytestmark = pytest.mark.etcd


@pytest.fixture
async def regions(etcds: Callable[..., Any], valkeys: Callable[..., Any], tmp_path: Path) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A client of each region; the cluster is `regions[0].etcd`."""
    cluster, issuer, clients = etcds(), Issuer(tmp_path / "keys"), []
    async with AsyncExitStack() as stack:
        for name in ("frankfurt", "dublin"):
            server = valkeys()
            async with server.client() as redis:
                await redis.hset(keys.TIERS, "free", encode_tier(tier("free", 100_000)))
                await redis.set(keys.REVISION, 1)
            urls = {"TIDEGATE_REGION": name, "TIDEGATE_REDIS_URL": server.url, "TIDEGATE_STORE_URL": cluster.url}
            # No test fails because its machine is busy.
            patience = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "5", "TIDEGATE_STORE_TIMEOUT_SECONDS": "5"}
            app = create_app(Settings.from_environment(issuer.environment | urls | patience))
            await stack.enter_async_context(lifespan(app))
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", headers=bearer(issuer.mint("free")))
            clients.append(await stack.enter_async_context(client))
            clients[-1].etcd = cluster
        yield clients


async def buy(client: httpx.AsyncClient, number: int = 0) -> httpx.Response:
    return await client.post(PURCHASES, json={"amount": 5}, headers={"Idempotency-Key": f'"the-one-purchase-{number}"'})


async def bought(client: httpx.AsyncClient, number: int = 0) -> httpx.Response:
    """As a client that retries with its key while it is told to."""
    for _ in range(20):
        answer = await buy(client, number)
        if answer.status_code != 503:
            return answer
        await asyncio.sleep(0.5)
    raise AssertionError(f"still {answer.text}")


async def test_fifty_identical_purchases_in_two_regions_make_one_entry(regions: list[httpx.AsyncClient]):
    """IDEM-9."""
    answers = await asyncio.gather(*(buy(region) for region in regions * 25))

    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert (await regions[0].get("/v1/credits")).json()["balance"] == 5


async def test_purchases_around_the_death_of_the_leader_are_each_paid_once(regions: list[httpx.AsyncClient]):
    """IDEM-15: whatever was answered is there, and a retry in the other region finds what was not."""
    cluster = regions[0].etcd
    first = [asyncio.create_task(bought(regions[number % 2], number)) for number in range(20)]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    cluster.leader().kill()

    answers = await asyncio.gather(*first)
    again = await asyncio.gather(*(bought(regions[(number + 1) % 2], number) for number in range(20)))

    assert {answer.status_code for answer in answers} == {201}
    assert [answer.content for answer in answers] == [answer.content for answer in again]
    assert all("Idempotent-Replayed" in answer.headers for answer in again)
    assert (await regions[1].get("/v1/credits")).json()["balance"] == 100


async def test_without_a_majority_nothing_runs_and_reads_go_on(regions: list[httpx.AsyncClient], eventually: Callable[..., Any]):
    """IDEM-16: effect count 0, in every region."""
    cluster, headers = regions[0].etcd, {"Idempotency-Key": '"the-one-record-0001"'}
    await buy(regions[0])
    left, *others = cluster.members
    for member in others:
        member.kill()
    await eventually(lambda: not left.has_leader(), 15)

    refused = [await buy(region, 1) for region in regions] + [await regions[1].put("/v1/records/a", json={}, headers=headers)]
    reads = [await region.get(path) for region in regions for path in ("/v1/credits", "/v1/credits/purchases/1", "/v1/usage")]

    assert [answer.status_code for answer in refused] == [503] * 3
    assert {answer.json()["type"].rpartition("/")[2] for answer in refused} == {"idempotency-unavailable"}
    assert [answer.status_code for answer in reads] == [200] * 6
    assert reads[0].json() == {"balance": 5, "currency": "EUR", "entries": 1}
    for member in others:
        member.start()
    cluster.wait()
    assert (await bought(regions[1], 1)).json()["balance"] == 10
