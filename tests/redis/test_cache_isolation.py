"""Nobody sees, evicts or waits for what is another's: random traffic of two tenants, a noisy neighbour, and a crowd on four processes."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from tests.redis.cache_stage import DEDICATED, SHARED, Api, Documents, cache_status, document, publish, serving
from tests.redis.conftest import Start, wait_for
from tests.topologies import Way

from tidegate.cache.policy import CachePolicy

LFU = ("--maxmemory-policy", "allkeys-lfu", "--maxmemory")
TENANTS, SCOPES, NAMES, LANGUAGES = ("acme", "other"), ("api", "api payments", "api profile"), "abc", ("", "de", "en")


class Traffic:
    """Random requests of two tenants over the same URLs; each answer must be the asker's own, and no older than a change it knew of."""

    def __init__(self, api: Api, seed: int, *, changes: float = 0.15) -> None:
        self.api, self.random, self.changes = api, random.Random(seed), changes
        self.floors = Counter[tuple[str, str]]()
        self.outcomes = Counter[str]()

    async def run(self, batches: int) -> None:
        for _ in range(batches):
            await asyncio.gather(*(self.one() for _ in range(12)))

    async def one(self) -> None:
        tenant, tier = self.random.choice(TENANTS), self.random.choice(("pro", "own"))
        scope, name, language = self.random.choice(SCOPES), self.random.choice(NAMES), self.random.choice(LANGUAGES)
        query = self.random.choice(("", "page=2"))
        token = self.api.token(tier, tenant, scope=scope, client=self.random.choice("xy"))
        if self.random.random() < self.changes:
            answer = await self.api.put(f"/v1/documents/{name}", token=token)
            assert answer.status_code == 200
            # Its own lane is what a mutation invalidates.
            self.floors[tenant, tier + name] = max(self.floors[tenant, tier + name], answer.json()["version"])
            return
        floor = self.floors[tenant, tier + name]
        fields = {"Accept_Language": language} | ({"Cache_Control": "no-cache"} if self.random.random() < 0.1 else {})
        answer = await self.api.get(f"/v1/documents/{name}{'?' + query if query else ''}", token=token, **fields)
        *parts, version = answer.text.split("|")
        assert parts == [tenant, *sorted(scope.split()), name, query, language]
        assert int(version) >= floor
        parameters = cache_status(answer)[1]
        self.outcomes["hit" if "hit" in parameters else parameters.get("detail", "other")] += 1


@pytest.mark.parametrize("seed", range(3))
async def test_no_answer_holds_a_byte_of_another_tenant_scope_or_variant(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any, seed: int
) -> None:
    """CACHE-2, CACHE-9: over the same URLs, in both lanes, while they change; an answer is never older than a change that was answered."""
    # One server for both lanes: it is the keys that keep them apart here.
    lanes = valkeys()
    await publish(redis, document("own", DEDICATED, lane=lanes.url), document("pro", SHARED))
    documents = Documents(CachePolicy(vary=("Accept-Language",)))
    async with serving(issuer, valkey.url, durable.url, documents, TIDEGATE_CACHE_URL=lanes.url) as api:
        # The first mutation of a store alone, as it is what gives it its mark.
        await api.put()
        traffic = Traffic(api, seed)
        await traffic.run(60)

    assert traffic.outcomes["hit"] > 50


async def test_replies_that_come_about_when_they_are_given_up_are_nobody_elses(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any, eventually: Callable[..., Any]
) -> None:
    """CACHE-2: a connection whose reply was not waited for gives it to no later request."""
    lane = valkeys()
    await publish(redis, document("own", DEDICATED, lane=lane.url), document("pro", SHARED))
    documents = Documents(CachePolicy(vary=("Accept-Language",)))
    async with Way(lane.port).open() as way:
        settings = {"TIDEGATE_CACHE_URL": f"redis://127.0.0.1:{way.port}", "TIDEGATE_CACHE_TIMEOUT_SECONDS": "0.3"}
        async with serving(issuer, valkey.url, durable.url, documents, **settings) as api:
            traffic = Traffic(api, 1, changes=0)
            # Both happen, or nothing was tried: some are answered from the lane, and some give it up.
            while min(traffic.outcomes[outcome] for outcome in ("hit", "lane-down")) < 50:
                await traffic.run(8)
                way.flows.clear()
                given_up = traffic.outcomes["lane-down"]
                late = asyncio.create_task(traffic.run(1))
                await eventually(lambda given_up=given_up: traffic.outcomes["lane-down"] > given_up)
                way.flows.set()
                await late


HOSTILE = [
    "a/", "/a", "a//b", "a/../b", "..", "%2e%2e", "a%2Fb", "a%2fb", "%61", "a%00", "a%0d%0a", "%", "%zz", "%ff", "%fe", "a%3Fpage=2",
    "a?page=2", "a%23", "a;b", "%C3%A9", "\u00e9", "e%CC%81", "%E2%80%8B", "%F0%9F%92%B8", "a%5Cb", "a+b", "a%20b", "*", "A", "x" * 4_000,
]  # fmt: skip


async def test_a_path_of_any_form_gets_from_the_lane_what_the_handler_says(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any
) -> None:
    """CACHE-2: no two are taken for the same that the handler tells apart."""
    lane = valkeys()
    await publish(redis, document("pro", SHARED), document("free", {"lane": "None"}))
    async with serving(issuer, valkey.url, durable.url, Documents(), TIDEGATE_CACHE_URL=lane.url) as api:
        pro, free = api.token("pro"), api.token("free")
        for token in (pro, pro):
            kept = [await api.get(f"/v1/documents/{path}", token=token) for path in HOSTILE]
        plain = [await api.get(f"/v1/documents/{path}", token=free) for path in HOSTILE]

    assert [(answer.status_code, answer.status_code == 404 or answer.text) for answer in kept] == [
        (answer.status_code, answer.status_code == 404 or answer.text) for answer in plain
    ]
    assert sum("; hit;" in answer.headers.get("Cache-Status", "") for answer in kept) > 15


async def test_a_neighbour_that_overfills_the_shared_lane_evicts_nothing_of_a_dedicated_one(
    redis: Redis, valkey: Any, valkeys: Callable[..., Any], durable: Any, issuer: Any
) -> None:
    """LANE-2: ten times the shared budget; no eviction, and no hit less."""
    shared, own = valkeys(*LFU, "4mb"), valkeys(*LFU, "16mb")
    await publish(redis, document("own", DEDICATED, lane=own.url), document("pro", SHARED))
    documents = Documents()
    documents.size = 65_536

    async def hits(api: Api) -> int:
        answers = [await api.get(f"/v1/documents/{number}", token=token) for number in range(100)]
        return sum("; hit;" in answer.headers["Cache-Status"] for answer in answers)

    async with serving(issuer, valkey.url, durable.url, documents, TIDEGATE_CACHE_URL=shared.url) as api:
        token, neighbour = api.token("own"), api.token("pro", "noisy")
        await hits(api)
        before = await hits(api)
        for number in range(10 * 4 * 2**20 // documents.size):
            await api.get(f"/v1/documents/{number}", token=neighbour)
        after = await hits(api)

    async with shared.client() as client:
        assert (await client.info("stats"))["evicted_keys"] > 100
    async with own.client() as client:
        assert (await client.info("stats"))["evicted_keys"] == 0
    assert (before, after) == (100, 100)


# --- four processes ----------------------------------------------------------------------------------------------------------

CROWDED_API = """
import os

from redis.asyncio import Redis

from tidegate.asgi import app
from tidegate.cache import single_flight
from tidegate.cache.policy import CachePolicy

single_flight.WAIT_SECONDS = 60.0  # a busy machine takes longer to bring the crowd together


class Dear:
    cached = CachePolicy()

    async def on_get(self, req, resp):
        async with Redis.from_url(os.environ["ORIGIN_URL"]) as origin:
            await origin.rpush("calls", os.getpid())
            await origin.blpop(["go"], 60)
        resp.text = "made"


app.add_route("/v1/dear", Dear())
"""
CROWD = 200


class Crowd:
    """200 requests at once for one answer that nobody has, to four workers; the handler waits until the test lets it go."""

    def __init__(self, base: str, token: str, origin: Redis) -> None:
        self.base, self.origin = base, origin
        self.headers = {"Authorization": f"Bearer {token}"}
        limits = httpx.Limits(max_connections=CROWD)
        self.client = httpx.AsyncClient(headers=self.headers, limits=limits, timeout=60)
        self.tasks: list[asyncio.Task[httpx.Response]] = []

    async def gather(self, eventually: Callable[..., Any]) -> None:
        self.tasks = [asyncio.create_task(self.client.get(f"{self.base}/v1/dear")) for _ in range(CROWD)]
        async with httpx.AsyncClient(headers=self.headers) as client:

            async def is_there() -> bool:
                # Each has passed the limits and there is a seat for all: only the cache is behind them, and one of them in the handler.
                usage = (await client.get(f"{self.base}/v1/usage")).json()
                return bool(usage["windows"][0]["used"] == CROWD and await self.origin.llen("calls"))

            await eventually(is_there, 30)

    async def let_go(self) -> list[httpx.Response | BaseException]:
        await self.origin.rpush("go", *range(CROWD))
        answers = await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.client.aclose()
        return answers


@pytest.fixture
async def crowd(
    start: Start,
    port: int,
    redis: Redis,
    valkeys: Callable[..., Any],
    durable: Any,
    issuer: Any,
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> Any:
    await publish(redis, document("pro", SHARED))
    (tmp_path / "crowded_api.py").write_text(CROWDED_API)
    shared, origin = valkeys(*LFU, "16mb"), valkeys()
    settings = {"TIDEGATE_CACHE_URL": shared.url, "TIDEGATE_CACHE_TIMEOUT_SECONDS": "5", "TIDEGATE_DECISION_TIMEOUT_SECONDS": "5"}
    urls = {"ORIGIN_URL": origin.url, "TIDEGATE_STORE_URL": durable.url}
    process = start(
        "crowded_api:app",
        **settings,
        **urls,
        PYTHONPATH=str(tmp_path),
        WEB_CONCURRENCY="4",
        TIDEGATE_DRAIN_SECONDS="0",
        TIDEGATE_SEATS=str(CROWD),
    )
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)

    async def are_all_there() -> bool:
        return await redis.hlen("tg:1:{tiers}:workers") == 4

    await eventually(are_all_there, 30)
    async with origin.client(60) as client:
        made = Crowd(f"http://127.0.0.1:{port}", issuer.mint("pro"), client)
        yield made
        await client.rpush("go", *range(CROWD))
    process.terminate()
    process.wait(20)


@pytest.mark.worker
async def test_two_hundred_at_once_on_four_processes_ask_the_handler_once(crowd: Crowd, eventually: Callable[..., Any]) -> None:
    """CACHE-8."""
    await crowd.gather(eventually)

    answers = await crowd.let_go()

    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "made")}
    assert await crowd.origin.llen("calls") == 1
    assert sum("collapsed" in cache_status(answer)[1] or "hit" in cache_status(answer)[1] for answer in answers) == CROWD - 1


@pytest.mark.worker
async def test_when_the_one_that_asks_is_killed_one_other_asks(crowd: Crowd, eventually: Callable[..., Any]) -> None:
    """CACHE-8: its lease runs out, and nobody of another process fails."""
    await crowd.gather(eventually)
    (owner,) = await crowd.origin.lrange("calls", 0, -1)
    with suppress(ProcessLookupError):
        os.kill(int(owner), signal.SIGKILL)

    async def has_another_asked() -> bool:
        return bool(await crowd.origin.llen("calls") > 1)

    await eventually(has_another_asked, 30)
    answers = await crowd.let_go()

    served = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {(answer.status_code, answer.text) for answer in served} == {(200, "made")}
    assert all(isinstance(answer, httpx.TransportError) for answer in answers if answer not in served)
    assert len(served) > CROWD / 4
    assert await crowd.origin.llen("calls") == 2
