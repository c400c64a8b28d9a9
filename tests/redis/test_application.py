"""The whole API of one worker in process, against real Valkey servers: order of the steps, problems, logs."""

import asyncio
import gc
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import falcon
import httpx
import pytest
from redis.asyncio import Redis
from tests.redis.conftest import PATIENT

from tidegate import body
from tidegate.application import create_app
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.settings import Settings
from tidegate_operator.publisher import Publisher

ROOT = Path(__file__).parents[2]
PURCHASES = "/v1/credits/purchases"


def tier(name: str, limit: int) -> TierDocument:
    spec = {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}
    return TierDocument(Tier.from_spec(name, spec), uid=f"uid-{name}", generation=1)


@pytest.fixture
async def api(redis: Redis, valkey: Any, durable: Any, issuer: Any) -> AsyncIterator[httpx.AsyncClient]:
    for document in (tier("free", 3), tier("pro", 1000)):
        await redis.hset(keys.TIERS, document.tier.name, encode_tier(document))
    await redis.set(keys.REVISION, 1)
    urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": durable.url}
    app = create_app(Settings.from_environment(issuer.environment | PATIENT | urls))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        yield client


async def test_a_region_on_a_cluster_counts_an_identity_in_its_shard(cluster: Any, durable: Any, issuer: Any):
    urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": cluster.url, "TIDEGATE_STORE_URL": durable.url}
    # From this key follows the shard, which at random would be the first in one run of 256.
    Path(issuer.environment["TIDEGATE_IDEMPOTENCY_KEY_FILE"]).write_bytes(b"k" * 32)
    publisher = Publisher.connect("frankfurt", cluster.url, timeout_seconds=1.0)
    await publisher.fill([tier("free", 3)])
    await publisher.aclose()
    app = create_app(Settings.from_environment(issuer.environment | PATIENT | urls | {"TIDEGATE_LIMITS_SHARDS": "256"}))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        ready = await client.get("/readyz")
        answers = [await client.get("/v1/tiers/free", headers=bearer(issuer.mint("free"))) for _ in range(4)]
        usage = await client.get("/v1/usage", headers=bearer(issuer.mint("free")))

    held: list[str] = []
    for node in cluster.primaries:
        async with node.client() as redis:
            held += [key.decode() for key in await redis.keys("tg:1:usage:*")]
    assert ready.status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert usage.json()["windows"][0]["remaining"] == 0
    assert len(held) == 1
    assert re.fullmatch(r"tg:1:usage:\{(?!0\})\d+\}:[\w-]{22}", held[0])


async def test_a_worker_that_has_started_connects_for_no_decision_any_more(api: httpx.AsyncClient, redis: Redis, issuer: Any):
    before = (await redis.info("stats"))["total_connections_received"]

    answer = await api.get("/v1/tiers/free", headers=bearer(issuer.mint("free")))

    assert answer.status_code == 200
    assert (await redis.info("stats"))["total_connections_received"] == before


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Starts and stops the application as a server does, which httpx leaves out."""
    events, answers = asyncio.Queue[Any](), asyncio.Queue[Any]()
    served = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}, events.get, answers.put))
    await events.put({"type": "lifespan.startup"})
    assert await answers.get() == {"type": "lifespan.startup.complete"}
    yield
    await events.put({"type": "lifespan.shutdown"})
    assert await answers.get() == {"type": "lifespan.shutdown.complete"}
    await served


def bearer(token: str, **headers: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} | headers


def assert_is_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "instance"} <= problem.keys()
    return dict(problem)


async def test_a_free_token_is_refused_at_exactly_its_limit_while_pro_passes(api: httpx.AsyncClient, issuer: Any) -> None:
    """RL-4: 429, Retry-After, the violated policy by name."""
    free, pro = (bearer(issuer.mint(name, client=name)) for name in ("free", "pro"))

    statuses = [(await api.get("/v1/credits", headers=free)).status_code for _ in range(5)]
    refused = await api.get("/v1/credits", headers=free)
    passed = await api.get("/v1/credits", headers=pro)

    assert statuses == [200, 200, 200, 429, 429]
    assert assert_is_problem(refused, 429)["violated-policies"] == ["minute"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert passed.status_code == 200
    assert passed.headers["RateLimit-Policy"].startswith('"minute";q=1000')


async def test_every_error_of_the_framework_is_a_problem(api: httpx.AsyncClient, issuer: Any) -> None:
    """ERR-1, ERR-3."""
    headers = bearer(issuer.mint("pro"))

    assert_is_problem(await api.get("/nowhere", headers=headers), 404)
    refused = await api.delete("/v1/credits", headers=headers | {"Idempotency-Key": '"0123456789abcdef"'})
    assert_is_problem(refused, 405)
    assert "GET" in refused.headers["Allow"]


class Breaks:
    """Fails after it announced a stream."""

    async def on_get(self, req: Any, resp: Any) -> None:
        resp.set_stream(self._never(), 1_000)
        raise RuntimeError("bug")

    async def on_get_events(self, req: Any, resp: Any) -> None:
        resp.sse = self._never()
        raise RuntimeError("bug")

    async def on_post(self, req: Any, resp: Any) -> None:
        resp.stream = self._never()
        raise falcon.HTTPConflict(description="It is locked.")

    async def _never(self) -> AsyncIterator[Any]:
        raise AssertionError("the stream was read")
        yield


async def test_an_error_after_a_stream_was_announced_is_a_problem(api: httpx.AsyncClient, issuer: Any) -> None:
    """ERR-1: the stream is dropped, and a mutation's refusal is a result as ever."""
    app, headers = api._transport.app, bearer(issuer.mint("pro"), **{"Idempotency-Key": '"a-broken-stream-1"'})
    app.add_route("/v1/breaks", Breaks())
    app.add_route("/v1/breaks/events", Breaks(), suffix="events")

    assert_is_problem(await api.get("/v1/breaks", headers=headers), 500)
    assert int((await api.head("/v1/breaks", headers=headers)).headers["Content-Length"]) < 1_000
    assert_is_problem(await api.get("/v1/breaks/events", headers=headers), 500)
    answers = [await api.post("/v1/breaks", headers=headers) for _ in range(2)]

    assert [assert_is_problem(answer, 409)["detail"] for answer in answers] == ["It is locked."] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic dTpw"}])
async def test_without_a_valid_token_there_is_a_challenge_and_no_hint(api: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """TOK-1, SIG-10."""
    refused = await api.get("/v1/credits", headers=headers)

    assert_is_problem(refused, 401)
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_replay_costs_no_quota(api: httpx.AsyncClient, issuer: Any) -> None:
    """PIPE-3, IDEM-8."""
    headers = bearer(issuer.mint("free")) | {"Idempotency-Key": '"purchase-0000000001"', "Content-Type": "application/json"}

    answers = [await api.post(PURCHASES, headers=headers, content=b'{"amount": 500}') for _ in range(6)]
    balance = await api.get("/v1/credits", headers=headers)

    assert [answer.status_code for answer in answers] == [201] * 6
    assert len({answer.content for answer in answers}) == 1
    assert ["Idempotent-Replayed" in answer.headers for answer in answers] == [False] + [True] * 5
    assert balance.json()["balance"] == 500


async def test_usage_is_read_without_being_charged(api: httpx.AsyncClient, issuer: Any) -> None:
    headers = bearer(issuer.mint("free"))
    await api.get("/v1/credits", headers=headers)

    usages = [(await api.get("/v1/usage", headers=headers)).json() for _ in range(5)]

    assert [usage["windows"][0]["used"] for usage in usages] == [1] * 5
    assert usages[0]["windows"][0]["remaining"] == 2


async def test_a_tier_is_shown_to_its_own_tokens_only(api: httpx.AsyncClient, issuer: Any) -> None:
    """API1: 404, not 403."""
    headers = bearer(issuer.mint("pro"))

    assert (await api.get("/v1/tiers/pro", headers=headers)).status_code == 200
    assert_is_problem(await api.get("/v1/tiers/free", headers=headers), 404)


async def test_a_body_over_the_maximum_is_refused(api: httpx.AsyncClient, issuer: Any) -> None:
    """API4: by its declared length and, when it has none, as soon as it is passed."""
    headers = bearer(issuer.mint("pro")) | {"Idempotency-Key": '"0123456789abcdef"', "Content-Type": "application/json"}

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    assert_is_problem(await api.post(PURCHASES, headers=headers, content=b"x" * 10_000_000), 413)
    assert_is_problem(await api.post(PURCHASES, headers=headers, content=chunks()), 413)


async def test_readiness_names_what_is_missing_and_liveness_asks_nobody(api: httpx.AsyncClient) -> None:
    """OPS-1."""
    ready = await api.get("/readyz")

    assert (await api.get("/livez")).status_code == 200
    assert ready.json() == {"status": "ok", "failed": []}


async def test_the_document_is_served_to_everybody_and_not_again_to_whoever_has_it(api: httpx.AsyncClient) -> None:
    text = (ROOT / "app/tidegate/resources/openapi.yaml").read_bytes()
    first, headed = await api.get("/openapi.yaml"), await api.head("/openapi.yaml")
    etag = first.headers["ETag"]

    fields = [etag, f"W/{etag}", f'"x", {etag}', "*", '"x"']
    answers = [await api.get("/openapi.yaml", headers={"If-None-Match": field}) for field in fields]

    assert (first.status_code, first.content, first.headers["Content-Type"]) == (200, text, "application/yaml")
    assert first.headers["Cache-Control"] == "public, max-age=300"
    assert (headed.content, headed.headers["Content-Length"]) == (b"", str(len(text)))
    assert [(answer.status_code, len(answer.content)) for answer in answers] == [(304, 0)] * 4 + [(200, len(text))]
    assert {answer.headers["ETag"] for answer in answers} == {etag}


async def test_sinks_and_static_routes_are_refused(api: httpx.AsyncClient) -> None:
    """TOK-1: no middleware of a resource would run for them."""
    app = api._transport.app

    async def sink(req: Any, resp: Any, **params: str) -> None: ...

    with pytest.raises(TypeError, match="without token"):
        app.add_sink(sink, "/v1/sink")
    with pytest.raises(TypeError, match="without token"):
        app.add_static_route("/v1/static", str(ROOT / "docs"))


async def test_half_a_message_is_not_carried_out(api: httpx.AsyncClient, issuer: Any) -> None:
    """RFC 9112, 8: the client is gone in the middle of its body; what came so far may be sound by chance."""
    events = iter([{"type": "http.request", "body": b'{"amount": 5}', "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []
    headers = bearer(issuer.mint("pro"), **{"Content-Type": "application/json", "Idempotency-Key": '"half-a-message-1"'})

    async def receive() -> Any:
        return next(events)

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": PURCHASES, "query_string": b""}
    await api._transport.app(scope | {"headers": [(n.lower().encode(), v.encode()) for n, v in headers.items()]}, receive, send)

    assert sent[0]["status"] == 400
    whole = await api.post(PURCHASES, content=b'{"amount": 5}', headers=headers)
    assert (whole.status_code, whole.json()["balance"]) == (201, 5)


async def test_a_body_that_comes_too_slowly_is_given_up(api: httpx.AsyncClient, issuer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """API4: and the connection with it, whose rest would be taken for the next request."""
    monkeypatch.setattr(body, "BODY_SECONDS", 0.05)

    async def drip() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1)
        yield b"}"

    headers = bearer(issuer.mint("pro"), **{"Idempotency-Key": '"a-slow-body-0001"'})
    answer = await api.post(PURCHASES, content=drip(), headers=headers)

    assert_is_problem(answer, 408)
    assert answer.headers["Connection"] == "close"


async def test_the_body_of_a_query_is_read_and_that_of_a_get_is_not(api: httpx.AsyncClient, issuer: Any) -> None:
    """RFC 9110, 9.3.1: the one says what it asks for, the other's means nothing; neither changes anything or needs a key."""

    class Echo:
        async def on_get(self, req: Any, resp: Any) -> None:
            resp.data = req.context.body

        on_query = on_get

    api._transport.app.add_route("/v1/echo", Echo())

    answers = [await api.request(method, "/v1/echo", content=b"what?", headers=bearer(issuer.mint("pro"))) for method in ("QUERY", "GET")]

    assert [(answer.status_code, answer.content) for answer in answers] == [(200, b"what?"), (200, b"")]


async def test_head_is_answered_wherever_get_is(api: httpx.AsyncClient, issuer: Any) -> None:
    """RFC 9110, 9.1, with the fields of GET and without its body."""
    got, headed = [await method("/v1/credits", headers=bearer(issuer.mint("pro"))) for method in (api.get, api.head)]

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["Content-Length"] == got.headers["Content-Length"]


async def test_a_client_without_a_token_does_not_get_to_send_a_body(api: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    answer = await api.post(PURCHASES, content=body())

    assert_is_problem(answer, 401)


async def test_the_resource_of_the_readme_works_as_it_is_printed(api: httpx.AsyncClient, issuer: Any, tmp_path: Any) -> None:
    """The blueprint's point: one file and one route."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"app": api._transport.app}
    exec(compile("\n".join(blocks), "README.md", "exec"), names)
    headers = bearer(issuer.mint("pro"), **{"Idempotency-Key": '"my-first-note-0001"'})

    answers = [await api.put("/v1/notes/a", json={"text": "hello"}, headers=headers) for _ in range(2)]
    wrong = await api.put("/v1/notes/a", json={"txt": "hello"}, headers=headers | {"Idempotency-Key": '"my-second-note-001"'})

    assert [(answer.status_code, answer.json()) for answer in answers] == [(201, {"id": "a"})] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert_is_problem(wrong, 422)


def test_the_resource_of_the_readme_passes_the_linters(tmp_path: Any) -> None:
    block = re.findall(r"```python\n# app/.*?\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    file = tmp_path / "notes.py"
    file.write_text(block)

    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(file)], capture_output=True
        )
        assert done.returncode == 0, done.stdout


async def test_workers_that_prefer_different_identity_keys_count_as_one(
    redis: Redis, valkey: Any, durable: Any, issuer: Any, tmp_path: Path
) -> None:
    """VEC-3: in the middle of replacing the key, a customer's quota is still one."""
    await redis.hset(keys.TIERS, "free", encode_tier(tier("free", 3)))
    await redis.set(keys.REVISION, 1)
    (tmp_path / "other.key").write_bytes(b"o" * 43)
    names = ["TIDEGATE_IDENTITY_KEY_FILE", "TIDEGATE_OTHER_IDENTITY_KEY_FILE"]
    files = [issuer.environment[names[0]], str(tmp_path / "other.key")]
    urls = {"TIDEGATE_REGION": "frankfurt", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": durable.url}
    apps = [
        create_app(Settings.from_environment(issuer.environment | PATIENT | urls | dict(zip(names, order, strict=True))))
        for order in (files, files[::-1])
    ]
    async with AsyncExitStack() as stack:
        clients = []
        for app in apps:
            await stack.enter_async_context(lifespan(app))
            clients.append(await stack.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")))

        statuses = [(await clients[number % 2].get("/v1/credits", headers=bearer(issuer.mint("free")))).status_code for number in range(6)]

    assert statuses == [200, 200, 200, 429, 429, 429]


async def test_a_worker_with_another_idempotency_key_does_nothing_again(
    api: httpx.AsyncClient, valkey: Any, durable: Any, issuer: Any, tmp_path: Path
) -> None:
    """As one of a second cluster whose Secret was made apart: it finds no result of the others, and must not take that for none."""
    (tmp_path / "another.key").write_bytes(b"a" * 43)
    urls = {"TIDEGATE_REGION": "dublin", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": durable.url}
    another = {"TIDEGATE_IDEMPOTENCY_KEY_FILE": str(tmp_path / "another.key")}
    headers = bearer(issuer.mint("pro")) | {"Idempotency-Key": '"purchase-0000000001"', "Content-Type": "application/json"}
    first = await api.post(PURCHASES, headers=headers, content=b'{"amount": 500}')

    app = create_app(Settings.from_environment(issuer.environment | PATIENT | urls | another))
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        again, ready = await client.post(PURCHASES, headers=headers, content=b'{"amount": 500}'), await client.get("/readyz")

    assert first.status_code == 201
    assert_is_problem(again, 503)
    assert ready.json()["failed"] == ["store"]
    assert (await api.get("/v1/credits", headers=headers)).json()["balance"] == 500


class Exchange:
    """What a server holds for a request: the scope, and the `receive` of it, as uvicorn's cycle does."""

    def __init__(self, method: str, path: str, fields: dict[str, str], body: bytes = b"") -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        self.scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path, "headers": headers}
        self.scope |= {"raw_path": path.encode(), "query_string": b"", "scheme": "http", "server": ("api", 80), "client": ("127.0.0.1", 1)}
        self.body = body
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, event: dict[str, Any]) -> None:
        self.status = event.get("status", self.status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/tiers/pro", 200), ("POST", PURCHASES, 201), ("GET", "/v1/nowhere", 404)],
)
async def test_a_request_leaves_nothing_that_only_a_collection_frees(api: Any, issuer: Any, method: str, path: str, status: int):
    fields = bearer(issuer.mint("pro")) | {"Host": "api", "Content-Type": "application/json", "Content-Length": "14"}

    async def ask(number: int) -> int:
        exchange = Exchange(method, path, fields | {"Idempotency-Key": f'"exchange-of-{number:06d}"'}, b'{"amount": 10}')
        await api._transport.app(exchange.scope, exchange.receive, exchange.send)
        return exchange.status

    assert await ask(0) == status
    gc.collect()
    gc.disable()
    try:
        for number in range(1, 51):
            await ask(number)
        assert gc.collect() < 50
    finally:
        gc.enable()
