"""When a request is charged, refused or let through, and which fields its response carries."""

from collections.abc import Mapping

import pytest
from falcon.asgi import App, Request, Response
from falcon.testing import ASGIConductor

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.errors import LimitStoreUnavailableError, QuotaExceededError
from tidegate.limits.middleware import LimitsMiddleware


class FakeLimiter:
    """Grants `room` requests; away while `is_away`."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.is_away = False
        self.asked: list[Amounts] = []
        self.charged: list[int] = []

    async def decide(self, tid: str, tier: Tier, amounts: Amounts) -> Decision:
        if self.is_away:
            raise LimitStoreUnavailableError("away")
        self.asked.append(amounts)
        granted = len(self.asked) <= self.room
        states = tuple(WindowState(window, min(len(self.asked), self.room), 0.5) for window in tier.windows)
        return Decision(granted, states, () if granted else ("minute",), 0.0 if granted else 6.0)

    async def charge(self, tid: str, tier: Tier, *, response_bytes: int) -> Decision:
        if self.is_away:
            raise LimitStoreUnavailableError("away")
        self.charged.append(response_bytes)
        return Decision(True, tuple(WindowState(window, response_bytes, 1.0) for window in tier.windows), (), 0.0)


class Identified:
    """Stands in for the steps before the limits."""

    def __init__(self, tier: Tier, body: bytes) -> None:
        self.tier, self.body = tier, body

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.update({"tier": self.tier, "tid": "t", "request_id": "r", "body": self.body})

    async def process_resource(self, req: Request, resp: Response, resource: object, params: Mapping[str, str]) -> None:
        resp.complete = req.get_header("X-Replayed") is not None


class Thing:
    async def on_get(self, req: Request, resp: Response, **params: str) -> None:
        resp.media = {"ok": True}

    async def on_head(self, req: Request, resp: Response, **params: str) -> None:
        resp.media = {"ok": True}


class Probe(Thing):
    public = True


class Free(Thing):
    rate_limited = False


def conductor(limiter: FakeLimiter, *, body: bytes = b"", unit: str = "Requests", **spec: object) -> ASGIConductor:
    windows = [{"name": "minute", "limit": 50, "period": "1m", "unit": unit}]
    tier = Tier.from_spec("pro", {"windows": windows, "costs": [{"path": "/dear/{name}", "cost": 7}], **spec})
    app = App(middleware=[Identified(tier, body), LimitsMiddleware(limiter)])
    for path, resource in {"/thing": Thing(), "/probe": Probe(), "/free": Free(), "/dear/{name}": Thing()}.items():
        app.add_route(path, resource)
    app.add_error_handler(QuotaExceededError, answer(429))
    app.add_error_handler(LimitStoreUnavailableError, answer(503))
    return ASGIConductor(app)


def answer(status: int):
    async def handle(req: Request, resp: Response, error: Exception, params: Mapping[str, str]) -> None:
        resp.status = status

    return handle


async def test_a_request_that_passes_says_what_is_left():
    limiter = FakeLimiter()
    async with conductor(limiter, body=b"12345") as client:
        response = await client.get("/thing")

    assert response.headers["RateLimit-Policy"] == '"minute";q=50;w=60'
    assert response.headers["RateLimit"] == '"minute";r=49;t=1'
    assert limiter.asked == [Amounts(cost=1, request_bytes=5)]


async def test_a_request_without_room_is_refused_without_our_fields():
    """`problems.py` sets those of a refusal."""
    async with conductor(FakeLimiter(room=0)) as client:
        response = await client.get("/thing")

    assert response.status_code == 429
    assert "RateLimit" not in response.headers


@pytest.mark.parametrize(("path", "headers"), [("/probe", {}), ("/free", {}), ("/thing", {"X-Replayed": "1"}), ("/nowhere", {})])
async def test_probes_free_resources_and_replays_cost_nothing(path: str, headers: dict[str, str]):
    """PIPE-3."""
    limiter = FakeLimiter()
    async with conductor(limiter) as client:
        response = await client.get(path, headers=headers)

    assert limiter.asked == []
    assert "RateLimit" not in response.headers


async def test_a_shadow_tier_counts_and_refuses_nothing():
    limiter = FakeLimiter(room=0)
    async with conductor(limiter, enforcement="Shadow") as client:
        response = await client.get("/thing")

    assert response.status_code == 200
    assert "RateLimit" not in response.headers
    assert len(limiter.asked) == 1


@pytest.mark.parametrize(("choice", "status"), [("Open", 200), ("Closed", 503), ("Local", 503)])
async def test_without_redis_the_tier_chooses(choice: str, status: int):
    """RL-13; RL-5: never a 429."""
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, degradation={"onStoreLoss": choice}) as client:
        response = await client.get("/thing")

    assert response.status_code == status
    assert "RateLimit" not in response.headers


async def test_a_response_is_charged_by_its_bytes_and_the_fields_say_so():
    """VEC-2."""
    limiter = FakeLimiter()
    async with conductor(limiter, unit="ResponseBytes") as client:
        response = await client.get("/thing")

    assert limiter.charged == [len(response.content)]
    assert response.headers["RateLimit"] == f'"minute";r={50 - len(response.content)};t=1'


async def test_a_head_response_weighs_nothing():
    limiter = FakeLimiter()
    async with conductor(limiter, unit="ResponseBytes") as client:
        await client.head("/thing")

    assert limiter.charged == [0]


async def test_a_finished_answer_is_sent_even_if_its_bytes_cannot_be_charged():
    limiter = FakeLimiter()
    decide = limiter.decide

    async def decide_and_leave(tid: str, tier: Tier, amounts: Amounts) -> Decision:
        decision = await decide(tid, tier, amounts)
        limiter.is_away = True
        return decision

    limiter.decide = decide_and_leave
    async with conductor(limiter, unit="ResponseBytes") as client:
        response = await client.get("/thing")

    assert response.status_code == 200
    assert response.headers["RateLimit"] == '"minute";r=49;t=1'


async def test_the_cost_of_a_request_goes_by_its_route():
    limiter = FakeLimiter()
    async with conductor(limiter) as client:
        await client.get("/dear/export")

    assert limiter.asked == [Amounts(cost=7)]
