"""`tidegate smoke`, as `helm test` runs it, against a whole worker."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.conftest import TIDEGATE
from tests.redis.conftest import Start, publish_pro, wait_for

from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier

pytestmark = pytest.mark.worker

Asked = subprocess.CompletedProcess[str]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Asked]:
    """Runs the command with a token, if there is one."""

    def run(*urls: str, token: str = "") -> Asked:
        file = tmp_path / "token"
        file.write_text(f"{token}\n") if token else file.unlink(missing_ok=True)
        command = [str(TIDEGATE), "smoke", *urls, "--token-file", str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
async def url(start: Start, port: int, redis: Redis, durable: Any) -> str:
    """A worker that knows the tiers `small` and `pro`."""
    await publish_pro(redis)
    spec = {"windows": [{"name": "minute", "limit": 5, "period": "1m"}]}
    await redis.hset(keys.TIERS, "small", encode_tier(TierDocument(Tier.from_spec("small", spec), uid="s", generation=1)))
    start(TIDEGATE_STORE_URL=durable.url, TIDEGATE_DEFAULT_TIER="small")
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)
    return f"http://127.0.0.1:{port}"


def test_a_good_installation_shows_a_tier_a_replay_and_a_real_429(ask: Callable[..., Asked], url: str, issuer: Any) -> None:
    done = ask(url, url, token=issuer.mint("small"))

    assert done.returncode == 0, done.stderr
    assert "enforces the tier small" in done.stdout
    assert "a purchase was made once and replayed 2 times" in done.stdout
    assert "and then 429 with Retry-After: " in done.stdout


def test_a_tier_without_a_small_limit_meets_none(ask: Callable[..., Asked], url: str, issuer: Any) -> None:
    """A million requests are no test."""
    done = ask(url, token=issuer.mint("pro"))

    assert done.returncode == 0, done.stderr
    assert "no 429: the token's tier allows more than 1000 requests" in done.stdout


def test_without_a_token_what_needs_none_is_asked(ask: Callable[..., Asked], url: str) -> None:
    done = ask(url)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"ok  {url} is ready, and refuses who has no token",
        "--  no tier, purchase or limit: there is no token",
    ]


async def test_an_address_that_lets_the_test_through_late_is_waited_for(
    ask: Callable[..., Asked], start: Start, port: int, redis: Redis, durable: Any
) -> None:
    """As a network that holds to policies does with a new pod."""
    await publish_pro(redis)
    asking = asyncio.create_task(asyncio.to_thread(ask, f"http://127.0.0.1:{port}"))
    start(TIDEGATE_STORE_URL=durable.url)

    done = await asking

    assert done.returncode == 0, done.stderr


def test_a_token_that_is_not_taken_fails_the_test_and_is_not_shown(ask: Callable[..., Asked], url: str) -> None:
    done = ask(url, token="not-a-token")

    assert done.returncode == 1
    assert f"expected: {url} takes the token; heard: 401" in done.stderr
    assert "not-a-token" not in done.stdout + done.stderr


def test_a_region_that_is_not_ready_fails_the_test(ask: Callable[..., Asked], start: Start, port: int) -> None:
    start(TIDEGATE_REDIS_URL="redis://127.0.0.1:1")
    url = f"http://127.0.0.1:{port}"
    wait_for(f"{url}/livez", 200)

    done = ask(url)

    assert done.returncode == 1
    assert f"expected: {url} is ready; heard: 503" in done.stderr


def test_an_address_where_nobody_answers_fails_the_test(ask: Callable[..., Asked], port: int) -> None:
    done = ask(f"http://127.0.0.1:{port}")

    assert done.returncode == 1
    assert "no answer" in done.stderr
    assert "Traceback" not in done.stderr
