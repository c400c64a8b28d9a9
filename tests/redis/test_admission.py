"""Seats and the queue before them, over real sockets: what clients are told, and that a seat comes back whatever a client does."""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from tests.redis.conftest import Start, slow_way, wait_for
from tests.redis.test_application import PURCHASES, bearer, lifespan
from tests.redis.test_protocol import serving

from tidegate.admission.gradient import GradientSeats
from tidegate.application import create_app
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.settings import Settings

pytestmark = pytest.mark.worker

QUEUE = {"maxWait": "30s", "maxDepth": 2}
# A busy machine must not have a request refused for another reason.
CALM = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "10", "TIDEGATE_REDIS_TIMEOUT_SECONDS": "10", "TIDEGATE_STORE_TIMEOUT_SECONDS": "10"}


class Gate:
    """A handler that answers once it is let, with so many bytes; or fails in some way."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.size = 2
        self.failure: BaseException | None = None

    async def on_get(self, req: Any, resp: Any) -> None:
        await self.opened.wait()
        if self.failure is not None:
            raise self.failure
        resp.data = b"a" * self.size


class Place:
    """A worker of one seat, served on a port."""

    def __init__(self, client: httpx.AsyncClient, gate: Gate, port: int, issuer: Any, eventually: Callable[..., Any]) -> None:
        self.client, self.gate, self.port = client, gate, port
        self.issuer = issuer
        self._eventually = eventually

    def token(self, tenant: str = "acme") -> dict[str, str]:
        return bearer(self.issuer.mint("pro", tenant=tenant))

    def ask(self, tenant: str = "acme", **headers: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.get("/v1/gate", headers=self.token(tenant) | headers))

    async def connect(self, tenant: str = "acme") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /v1/gate HTTP/1.1\r\nHost: x\r\nAuthorization: {self.token(tenant)['Authorization']}\r\n\r\n".encode())
        return reader, writer

    async def until_known(self, tier: str) -> None:
        fields = bearer(self.issuer.mint(tier))
        async with asyncio.timeout(20):
            while (await self.client.get("/v1/usage", headers=fields)).json().get("tier") != tier:
                await asyncio.sleep(0.01)

    async def until(self, *, taken: int, waiting: int) -> None:
        await self._eventually(lambda: (shown("seats_taken"), shown("waiting")) == (taken, waiting))


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"tidegate_admission_{name}", labels)


HOURLY = {"name": "hour", "limit": 10**6, "period": "1h"}


async def publish(redis: Redis, name: str, window: dict[str, Any] = HOURLY, **admission: Any) -> None:
    spec = {"windows": [window], "admission": {"queue": QUEUE} | admission}
    await redis.hset(keys.TIERS, name, encode_tier(TierDocument(Tier.from_spec(name, spec), uid="u", generation=1)))
    await redis.publish(keys.TIERS_CHANNEL, await redis.incr(keys.REVISION))


@pytest.fixture
async def place(redis: Redis, valkey: Any, durable: Any, issuer: Any, port: int, eventually: Callable[..., Any]) -> AsyncIterator[Place]:
    await publish(redis, "pro")
    urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": durable.url}
    app, gate = create_app(Settings.from_environment(issuer.environment | urls | CALM | {"TIDEGATE_SEATS": "1"})), Gate()
    app.add_route("/v1/gate", gate)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lifespan(app))
        await stack.enter_async_context(serving(app, port))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20))
        yield Place(client, gate, port, issuer, eventually)
        gate.opened.set()
        await eventually(lambda: (shown("seats_taken"), shown("waiting")) == (0, 0))


async def test_whoever_gets_no_seat_in_time_is_told_so_and_when_to_come_back(place: Place) -> None:
    """RL-5: we lack capacity, and nobody is to carry that to another region."""
    running = place.ask()
    await place.until(taken=1, waiting=0)
    waiting = [place.ask(), place.ask()]
    await place.until(taken=1, waiting=2)

    full, impatient = await place.ask(), await place.ask("other", Prefer="wait=0")
    place.gate.opened.set()
    served = [await running, *await asyncio.gather(*waiting)]

    for refused in (full, impatient):
        assert refused.status_code == 503
        assert refused.json()["type"].endswith("#temporary-reduced-capacity")
        assert refused.headers["Tidegate-Unavailable"] == "capacity"
        assert int(refused.headers["Retry-After"]) in (1, 2)
        assert refused.headers["Cache-Control"] == "no-store"
    assert [answer.status_code for answer in served] == [200, 200, 200]
    assert "Server-Timing" not in served[0].headers
    assert all(answer.headers["Server-Timing"].startswith("queue;dur=") for answer in served[1:])
    assert [shown("requests_total", tier="pro", outcome=outcome) for outcome in ("full", "expired", "waited")] == [1, 1, 2]


async def test_a_client_that_leaves_while_it_waits_runs_nothing(place: Place) -> None:
    running = place.ask()
    await place.until(taken=1, waiting=0)
    _, writer = await place.connect()
    await place.until(taken=1, waiting=1)

    writer.close()

    await place.until(taken=1, waiting=0)
    assert shown("requests_total", tier="pro", outcome="left") == 1
    place.gate.opened.set()
    assert (await running).status_code == 200


async def test_a_client_that_only_sends_no_more_is_answered_but_does_not_wait(place: Place) -> None:
    """Nobody can tell it from one that is gone."""
    running = place.ask()
    await place.until(taken=1, waiting=0)
    reader, writer = await place.connect()
    await place.until(taken=1, waiting=1)

    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 503 ")
    writer.close()
    place.gate.opened.set()
    assert (await running).status_code == 200


async def test_a_client_that_leaves_while_it_is_served_keeps_the_seat_until_its_handler_ends(place: Place) -> None:
    """What runs may have had its effect; the seat stands for the work, not for the client."""
    _, writer = await place.connect()
    await place.until(taken=1, waiting=0)
    writer.close()
    second = place.ask()
    await place.until(taken=1, waiting=1)

    place.gate.opened.set()

    assert (await second).status_code == 200
    await place.until(taken=0, waiting=0)


async def test_a_client_that_reads_nothing_holds_no_seat(place: Place) -> None:
    place.gate.size = 20_000_000
    _, writer = await place.connect()
    await place.until(taken=1, waiting=0)
    place.gate.opened.set()
    await place.until(taken=0, waiting=0)
    place.gate.size = 2

    assert (await place.ask()).status_code == 200
    writer.close()


async def test_a_client_of_many_connections_holds_up_nobody_else(place: Place) -> None:
    """It has as many places as its tier gives one identity, however many connections it opens, and no seat out of turn."""
    running = place.ask()
    await place.until(taken=1, waiting=0)
    many = [await place.connect("flood") for _ in range(50)]
    await place.until(taken=1, waiting=2)
    other = place.ask("other")
    await place.until(taken=1, waiting=3)

    place.gate.opened.set()

    assert (await running).status_code == (await other).status_code == 200
    await place.until(taken=0, waiting=0)
    for _, writer in many:
        writer.close()


async def test_an_identity_moves_its_bytes_and_at_most_one_answer_more_for_each_request_at_once(place: Place, redis: Redis) -> None:
    """What fair bandwidth means: bytes are shared by quota, whoever asks how often."""
    await publish(redis, "metered", {"name": "egress", "limit": 1_000_000, "period": "1h", "unit": "ResponseBytes"})
    await place.until_known("metered")
    place.gate.size = 100_000
    place.gate.opened.set()
    moved = {"greedy": 0, "modest": 0}

    async def read_until_refused(tenant: str) -> None:
        fields = bearer(place.issuer.mint("metered", tenant=tenant))
        while (answer := await place.client.get("/v1/gate", headers=fields)).status_code != 429:
            assert answer.status_code == 200
            moved[tenant] += len(answer.content)

    callers = {"greedy": 2, "modest": 1}
    await asyncio.gather(*(read_until_refused(tenant) for tenant, at_once in callers.items() for _ in range(at_once)))

    for tenant, at_once in callers.items():
        assert 1_000_000 <= moved[tenant] <= 1_000_000 + at_once * 100_000


async def test_probes_and_repetitions_need_no_seat(place: Place) -> None:
    key = {"Idempotency-Key": '"0123456789abcdef"', "Content-Type": "application/json"}
    first = await place.client.post(PURCHASES, headers=place.token() | key, json={"amount": 5})
    running = place.ask()
    await place.until(taken=1, waiting=0)

    async with asyncio.timeout(5):
        probes = [await place.client.get(path) for path in ("/livez", "/readyz")]
        again = await place.client.post(PURCHASES, headers=place.token() | key, json={"amount": 5})

    assert [probe.status_code for probe in probes] == [200, 200]
    assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
    place.gate.opened.set()
    await running


async def test_a_mutation_that_got_no_seat_is_not_done_and_not_remembered(place: Place) -> None:
    """PIPE-5: the same key does it once there is room."""
    running = place.ask()
    await place.until(taken=1, waiting=0)
    fields = place.token() | {"Idempotency-Key": '"0123456789abcdef"', "Content-Type": "application/json"}

    refused = await place.client.post(PURCHASES, headers=fields | {"Prefer": "wait=0"}, json={"amount": 5})
    place.gate.opened.set()
    await running
    done = await place.client.post(PURCHASES, headers=fields, json={"amount": 5})

    assert (refused.status_code, done.status_code) == (503, 201)
    assert "Idempotent-Replayed" not in done.headers


@pytest.mark.parametrize("failure", [ValueError("a bug"), asyncio.CancelledError(), TimeoutError()])
async def test_a_handler_that_fails_gives_its_seat_back(place: Place, failure: BaseException) -> None:
    place.gate.failure = failure
    place.gate.opened.set()
    failed = await place.ask()
    place.gate.failure = None

    assert failed.status_code == 500
    await place.until(taken=0, waiting=0)
    assert (await place.ask()).status_code == 200


async def test_adaptive_seats_learn_from_handlers_alone(
    monkeypatch: pytest.MonkeyPatch, redis: Redis, valkey: Any, durable: Any, issuer: Any, port: int
) -> None:
    """What a slow store takes says nothing of the handler, and neither does a request that no handler answered."""
    learned: list[float] = []
    monkeypatch.setattr(GradientSeats, "observe", lambda _, seconds, taken, now: learned.append(seconds))
    await publish(redis, "pro")
    async with slow_way(durable.port, 0.1) as store_port:
        urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": f"redis://127.0.0.1:{store_port}"}
        settings = issuer.environment | urls | CALM | {"TIDEGATE_SEATS": "50", "TIDEGATE_MINIMUM_SEATS": "2"}
        app = create_app(Settings.from_environment(settings))
        async with lifespan(app), serving(app, port), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            fields = bearer(issuer.mint("pro")) | {"Idempotency-Key": '"0123456789abcdef"', "Content-Type": "application/json"}
            made = await client.post(PURCHASES, headers=fields, json={"amount": 5})
            unheard = await client.patch("/v1/tiers/pro", headers=fields | {"Idempotency-Key": '"0123456789abcdeg"'}, json={})

    assert (made.status_code, unheard.status_code) == (201, 405)
    assert made.elapsed.total_seconds() > 0.4
    assert len(learned) == 1
    assert learned[0] < 0.1


async def test_a_stopping_worker_refuses_who_still_waits_and_finishes_what_runs(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any
) -> None:
    """OPS-2: nobody is cut off, and a queue of a minute does not hold up the exit until the worker is killed."""
    await publish(redis, "pro", queue={"maxWait": "60s", "maxDepth": 100})
    process = start(
        "tests.redis.admission_app:app",
        TIDEGATE_SEATS="2",
        TIDEGATE_DRAIN_SECONDS="0.3",
        TIDEGATE_STORE_URL=durable.url,
        HANDLER_SECONDS="1",
        **CALM,
    )
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer(issuer.mint("pro")), timeout=30) as client:
        asked = [asyncio.create_task(client.get("/v1/slow")) for _ in range(20)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)
    exit_code = await asyncio.to_thread(process.wait, 20)

    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all(json.loads(answer.content)["type"].endswith("#temporary-reduced-capacity") for answer in refused)
    assert exit_code == 0


async def test_a_thousand_connections_that_read_nothing_keep_nobody_from_being_served(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any
) -> None:
    """A worker as it is deployed; each of them asks, none of them ever reads, and they leave without a word."""
    await publish(redis, "pro")
    process = start("tests.redis.admission_app:app", TIDEGATE_SEATS="2", TIDEGATE_STORE_URL=durable.url, HANDLER_SECONDS="0.01", **CALM)
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)
    request = f"GET /v1/slow HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer(issuer.mint('pro', tenant='flood'))['Authorization']}\r\n\r\n"
    flood = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(1_000)]
    for connection in flood:
        connection.sendall(request.encode())
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers=bearer(issuer.mint("pro", tenant="other")), timeout=20
    ) as client:
        beside = [(await client.get("/v1/slow")).status_code for _ in range(50)]
        for connection in flood:
            connection.close()
        after = [(await client.get("/v1/slow")).status_code for _ in range(50)]
    process.send_signal(signal.SIGTERM)

    assert beside == after == [200] * 50
    assert await asyncio.to_thread(process.wait, 20) == 0


async def test_equal_tenants_of_a_worker_are_served_equally_beside_one_that_asks_eight_times_as_much(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any
) -> None:
    """RL-16, by counts alone, so that the pace of the machine does not matter: everybody always has somebody waiting."""
    await publish(redis, "pro", queue={"maxWait": "60s", "maxDepth": 100}, maxInFlight=100)
    start("tests.redis.admission_app:app", TIDEGATE_SEATS="2", TIDEGATE_STORE_URL=durable.url, HANDLER_SECONDS="0.05", **CALM)
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)
    served = dict.fromkeys(["heavy", "a", "b", "c", "d"], 0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits) as client:

        async def caller(name: str, headers: dict[str, str]) -> None:
            while sum(served.values()) < 200:
                answer = await client.get("/v1/slow", headers=headers)
                served[name] += answer.status_code == 200

        callers = {name: 64 if name == "heavy" else 8 for name in served}
        tokens = {name: bearer(issuer.mint("pro", tenant=name)) for name in served}
        await asyncio.gather(*(caller(name, tokens[name]) for name, at_once in callers.items() for _ in range(at_once)))

    others = [served[name] for name in "abcd"]
    assert sum(served.values()) >= 200
    assert sum(others) ** 2 / (len(others) * sum(number**2 for number in others)) >= 0.95, others
    # The last of its callers are still answered when everybody else has gone.
    assert served["heavy"] - callers["heavy"] <= 1.2 * max(others)
