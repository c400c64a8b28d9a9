"""Which lane a tier has, and what becomes of requests when it is slow, dead, of another password or gone: real Valkey servers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.redis.cache_stage import DEDICATED, SHARED, Api, Documents, document, publish, serving
from tests.redis.conftest import slow_way

from tidegate.contract import keys
from tidegate.contract.lanes import lane_password


@pytest.fixture
async def dedicated(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any
) -> AsyncIterator[tuple[Api, Any, Any]]:
    """An API with a dedicated lane for tier `own`, the lane's server, and the shared lane's."""
    shared, own = valkeys(), valkeys("--maxmemory", "16mb", "--maxmemory-policy", "allkeys-lfu")
    address = own.url.replace("127.0.0.1", "{region}")
    await publish(redis, document("own", DEDICATED, lane=address), document("pro", SHARED), document("lost", DEDICATED))
    settings = {"TIDEGATE_CACHE_URL": shared.url, "TIDEGATE_REGION": "127.0.0.1", "TIDEGATE_CACHE_TIMEOUT_SECONDS": "0.5"}
    async with serving(issuer, valkey.url, durable.url, Documents(), **settings) as opened:
        yield opened, own, shared


async def test_a_dedicated_lane_is_a_memory_of_its_own(dedicated: tuple[Api, Any, Any]) -> None:
    """LANE-1."""
    api, own, shared = dedicated
    answers = [await api.get(token=api.token("own")) for _ in range(2)]

    async with own.client() as there, shared.client() as elsewhere:
        assert await there.dbsize() == 1
        assert await elsewhere.dbsize() == 0
    assert [answer.headers["Cache-Status"].split(";")[0] for answer in answers] == ["Dedicated"] * 2
    assert "; hit;" in answers[1].headers["Cache-Status"]


async def test_a_dead_lane_is_bypassed_and_never_replaced_by_another(dedicated: tuple[Api, Any, Any], eventually: Any) -> None:
    """LANE-4."""
    api, own, shared = dedicated
    token = api.token("own")
    await api.get(token=token)
    own.kill()

    answers = [await api.get(token=token) for _ in range(3)]
    put = await api.put(token=token)

    assert {answer.headers["Cache-Status"] for answer in answers} == {"Dedicated; fwd=bypass; fwd-status=200; detail=lane-down"}
    assert [answer.status_code for answer in [*answers, put]] == [200] * 4
    async with shared.client() as elsewhere:
        assert await elsewhere.dbsize() == 0
    own.start()

    async def is_back() -> bool:
        return "; hit;" in (await api.get(token=token)).headers["Cache-Status"]

    await eventually(is_back)


async def test_a_frozen_lane_costs_one_deadline_and_then_nothing(dedicated: tuple[Api, Any, Any], eventually: Any) -> None:
    api, own, _ = dedicated
    token = api.token("own")
    await api.get(token=token)
    own.freeze()
    try:
        slow = await api.get(token=token)
        started = time.monotonic()
        quick = await api.get(token=token)
        took = time.monotonic() - started
    finally:
        own.thaw()

    assert [answer.headers["Cache-Status"] for answer in (slow, quick)] == ["Dedicated; fwd=bypass; fwd-status=200; detail=lane-down"] * 2
    assert took < 0.5


async def test_within_its_deadline_of_20_ms_a_lane_answers_or_is_done_without(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any
) -> None:
    """LANE-4, with the default: one that is slow or asleep fails no request and keeps none waiting for longer."""
    own = valkeys()
    async with slow_way(own.port, 0.02) as port:
        await publish(redis, document("own", DEDICATED, lane=own.url), document("slow", DEDICATED, lane=f"redis://127.0.0.1:{port}"))
        settings = {"TIDEGATE_CACHE_TIMEOUT_SECONDS": "0.02"}
        async with serving(issuer, valkey.url, durable.url, Documents(), **settings) as api:

            async def ask_at_once() -> tuple[list[Any], float]:
                started = time.monotonic()
                answers = await asyncio.gather(*(api.get(token=api.token("own")) for _ in range(50)))
                return answers, time.monotonic() - started

            _, awake = await ask_at_once()
            own.freeze()
            try:
                answers, asleep = await ask_at_once()
                put = await api.put(token=api.token("own"))
            finally:
                own.thaw()
            answers += [await api.get(token=api.token("slow")) for _ in range(5)]

    assert {(answer.status_code, answer.headers["Cache-Status"]) for answer in answers} == {
        (200, "Dedicated; fwd=bypass; fwd-status=200; detail=lane-down")
    }
    # Fifty requests one after the other would have been a second late. What they take anyway depends on how busy the machine is.
    assert asleep < 2 * awake + 0.5
    assert put.status_code == 200


async def test_a_lane_that_its_tier_does_not_have_any_more_is_left(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any, eventually: Any
) -> None:
    """LANE-3: no connection stays open, and no key is kept, once another one is asked for."""
    first, second = valkeys(), valkeys()
    await publish(redis, document("gone", DEDICATED, lane=first.url), document("own", DEDICATED, lane=first.url, uid="before"))
    async with serving(issuer, valkey.url, durable.url, Documents()) as api, first.client() as client:
        await asyncio.gather(*(api.get(token=api.token(tier)) for tier in ("gone", "own")))
        assert len(await client.client_list()) == 3
        await redis.hdel(keys.TIERS, "gone")
        await publish(redis, document("own", DEDICATED, lane=second.url), document("pro", SHARED))
        await redis.incr(keys.REVISION)
        await redis.publish(keys.TIERS_CHANNEL, 2)

        async def is_left() -> bool:
            await api.get(token=api.token("own"))
            return len(await client.client_list()) == 1

        await eventually(is_left)


async def test_a_tier_whose_lane_has_no_address_is_served_without(dedicated: tuple[Api, Any, Any]) -> None:
    api, _, shared = dedicated

    answer = await api.get(token=api.token("lost"))

    assert answer.headers["Cache-Status"] == "None; fwd=bypass; fwd-status=200; detail=no-lane"
    async with shared.client() as elsewhere:
        assert await elsewhere.dbsize() == 0


@pytest.mark.parametrize("is_right", [True, False])
async def test_the_password_of_a_dedicated_lane_follows_from_a_secret(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any, tmp_path: Any, is_right: bool
) -> None:
    """The published document holds none; with a wrong one the lane counts as lost."""
    (tmp_path / "lane.key").write_bytes(b"l" * 32)
    mine = document("own", DEDICATED)
    own = valkeys()
    published = document("own", DEDICATED, lane=own.url)
    async with own.client() as client:
        await client.config_set("requirepass", lane_password(b"l" * 32 if is_right else b"m" * 32, mine))
    await publish(redis, published)
    settings = {"TIDEGATE_LANE_KEY_FILE": str(tmp_path / "lane.key")}
    async with serving(issuer, valkey.url, durable.url, Documents(), **settings) as api:
        answers = [await api.get(token=api.token("own")) for _ in range(2)]

    assert ("; hit;" in answers[1].headers["Cache-Status"]) == is_right
    assert ("detail=lane-down" in answers[1].headers["Cache-Status"]) != is_right
