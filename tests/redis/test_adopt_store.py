"""A store that lost everything under a running application, and `tidegate adopt-store`, which accepts that."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis
from tests.conftest import DURABLE, TIDEGATE
from tests.redis.conftest import PATIENT
from tests.redis.test_application import PURCHASES, bearer, lifespan, tier

from tidegate.application import create_app
from tidegate.cli import main
from tidegate.contract import keys
from tidegate.contract.codec import encode_tier
from tidegate.settings import Settings
from tidegate.store import health


@pytest.fixture
async def served(redis: Redis, valkey: Any, valkeys: Callable[..., Any], issuer: Any, monkeypatch) -> AsyncIterator[Any]:
    """A client of a running application, whose store is `served.store`."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 0.02)
    await redis.hset(keys.TIERS, "free", encode_tier(tier("free", 1000)))
    await redis.set(keys.REVISION, 1)
    store = valkeys(*DURABLE)
    urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": store.url}
    app = create_app(Settings.from_environment(issuer.environment | PATIENT | urls))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        client.store, client.urls = store, urls
        client.headers.update(bearer(issuer.mint("free")))
        yield client


async def buy(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(PURCHASES, json={"amount": 5}, headers={"Idempotency-Key": '"the-one-purchase-1"'})


async def failed_checks(client: httpx.AsyncClient) -> list[str]:
    return list((await client.get("/readyz")).json()["failed"])


def run(urls: dict[str, str], *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(main, ["adopt-store", *arguments], input=typed, env=urls)


async def test_a_store_that_was_emptied_is_written_to_only_after_it_was_adopted(served: Any, eventually: Callable[..., Any]):
    assert (await buy(served)).status_code == 201
    served.store.flush()

    refused = await buy(served)
    assert refused.status_code == 503
    assert refused.json()["type"].endswith("/idempotency-unavailable")
    assert (await served.get("/v1/credits")).json()["balance"] == 0

    async def is_not_ready() -> bool:
        return await failed_checks(served) == ["store"]

    async def is_ready() -> bool:
        return not await failed_checks(served)

    await eventually(is_not_ready)
    told = await asyncio.to_thread(run, served.urls, typed="no\n")
    assert told.exit_code == 2
    assert "nothing was changed" in told.output
    assert (await buy(served)).status_code == 503

    assert (await asyncio.to_thread(run, served.urls, typed="adopt\n")).exit_code == 0
    await eventually(is_ready)
    assert (await buy(served)).status_code == 201
    assert (await served.get("/v1/credits")).json()["balance"] == 5


async def test_it_finds_all_in_the_variables_of_a_pod(served: Any):
    command = [str(TIDEGATE), "adopt-store", "--yes"]

    done = await asyncio.to_thread(subprocess.run, command, env=served.urls, capture_output=True, text=True, timeout=30, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "every region" in done.stdout


def test_a_store_that_does_not_answer_cannot_be_adopted(valkey: Any, port: int):
    done = run({"TIDEGATE_STORE_URL": f"redis://:hunter2@127.0.0.1:{port}", "TIDEGATE_REDIS_URL": valkey.url}, "--yes")

    assert done.exit_code == 1
    assert "did not answer" in done.output
    assert "ter2" not in done.output


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ({"TIDEGATE_STORE_URL": "redis://a"}, "TIDEGATE_REDIS_URL"),
        ({"TIDEGATE_REDIS_URL": "redis://a"}, "TIDEGATE_STORE_URL"),
        ({"TIDEGATE_REDIS_URL": "redis://a", "TIDEGATE_STORE_URL": "http://:hunter2@a"}, "cannot be used"),
    ],
)
def test_what_is_missing_or_wrong_is_named(urls: dict[str, str], said: str):
    done = run(urls, "--yes")

    assert done.exit_code == 2
    assert said in done.output
    assert "ter2" not in done.output
