"""When a request is charged, refused or let through, and which fields its response carries."""

from collections.abc import Mapping

import pytest
from falcon.asgi import App, Request, Response
from falcon.testing import ASGIConductor

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.errors import LimitStoreUnavailableError, NeverFitsError, QuotaExceededError
from tidegate.limits.local import LocalLimiter
from tidegate.limits.measures import OUTCOMES, Measures
from tidegate.limits.middleware import LimitsMiddleware, replay_tier

REPLAYS = 3


class FakeLimiter:
    """Grants `room` requests; away while `is_away`."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.is_away = False
        self.asked: list[Amounts] = []
        self.charged: list[int] = []
        self.names: list[tuple[tuple[str, ...], str]] = []

    async def decide(self, tids: tuple[str, ...], tier: Tier, amounts: Amounts) -> Decision:
        if self.is_away:
            raise LimitStoreUnavailableError("away")
        self.asked.append(amounts)
        self.names.append((tids, tier.name))
        granted = len(self.asked) <= self.room
        states = tuple(WindowState(window, min(len(self.asked), self.room), 0.5) for window in tier.windows)
        return Decision(granted, lambda: states, () if granted else ("minute",), 0.0 if granted else 6.0)

    async def charge(self, tids: tuple[str, ...], tier: Tier, *, response_bytes: int) -> Decision:
        if self.is_away:
            raise LimitStoreUnavailableError("away")
        self.charged.append(response_bytes)
        return Decision(True, lambda: tuple(WindowState(window, response_bytes, 1.0) for window in tier.windows))


class Identified:
    """Stands in for the steps before the limits."""

    def __init__(self, tier: Tier, body: bytes) -> None:
        self.tier, self.body = tier, body

    async def process_request(self, req: Request, resp: Response) -> None:
        req.context.update({"tier": self.tier, "tids": ("t",), "request_id": "r", "body": self.body})

    async def process_resource(self, req: Request, resp: Response, resource: object, params: Mapping[str, str]) -> None:
        req.context.is_repetition = req.get_header("X-Repeated") is not None


class Thing:
    async def on_get(self, req: Request, resp: Response, **params: str) -> None:
        resp.media = {"ok": True}

    async def on_head(self, req: Request, resp: Response, **params: str) -> None:
        resp.media = {"ok": True}


class Probe(Thing):
    public = True


class Free(Thing):
    rate_limited = False


def conductor(
    limiter: FakeLimiter, *, body: bytes = b"", unit: str = "Requests", workers: int = 1, measures: Measures | None = None, **spec: object
) -> ASGIConductor:
    windows = [{"name": "minute", "limit": 50, "period": "1m", "unit": unit}]
    tier = Tier.from_spec("pro", {"windows": windows, "costs": [{"path": "/dear/{name}", "cost": 7}], **spec})
    app = App(middleware=[Identified(tier, body), LimitsMiddleware(limiter, LocalLimiter(lambda: workers), replay_tier(REPLAYS), measures)])
    for path, resource in {"/thing": Thing(), "/probe": Probe(), "/free": Free(), "/dear/{name}": Thing()}.items():
        app.add_route(path, resource)
    app.add_error_handler(QuotaExceededError, answer(429))
    app.add_error_handler(NeverFitsError, answer(403))
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


@pytest.mark.parametrize("path", ["/probe", "/free", "/nowhere"])
async def test_probes_and_free_resources_cost_nothing(path: str):
    limiter = FakeLimiter()
    async with conductor(limiter) as client:
        response = await client.get(path)

    assert limiter.asked == []
    assert "RateLimit" not in response.headers


async def test_a_repeated_mutation_is_charged_to_a_bucket_of_its_own():
    """PIPE-3: nothing of the quota, and yet not free."""
    limiter = FakeLimiter()
    async with conductor(limiter, body=b"12345", unit="ResponseBytes") as client:
        response = await client.get("/dear/x", headers={"X-Repeated": "1"})
        refused = await client.get("/dear/x", headers={"X-Repeated": "1"})

    assert limiter.names == [(("t.replays",), "replay")] * 2
    assert limiter.charged == []
    assert response.headers["RateLimit-Policy"] == f'"replay";q={REPLAYS};w=60'
    assert refused.status_code == 429


async def test_repetitions_share_their_bucket_out_while_redis_is_away():
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter) as client:
        statuses = [(await client.get("/thing", headers={"X-Repeated": "1"})).status_code for _ in range(REPLAYS + 1)]

    assert statuses == [200] * REPLAYS + [429]


async def test_a_shadow_tier_counts_and_refuses_nothing():
    limiter = FakeLimiter(room=0)
    async with conductor(limiter, enforcement="Shadow") as client:
        response = await client.get("/thing")

    assert response.status_code == 200
    assert "RateLimit" not in response.headers
    assert len(limiter.asked) == 1


@pytest.mark.parametrize("choice", ["Open", "Closed", "Local"])
async def test_a_shadow_tier_refuses_nothing_without_redis_either(choice: str):
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, workers=0, enforcement="Shadow", degradation={"onStoreLoss": choice}) as client:
        response = await client.get("/thing")

    assert (response.status_code, response.headers["Tidegate-Limits"]) == (200, "open")


async def test_a_shadow_tier_charges_the_responses_that_it_would_have_given_if_it_were_enforced():
    """What a refused request answers would otherwise stand in the way of those that follow it."""
    limiter = FakeLimiter(room=1)
    async with conductor(limiter, unit="ResponseBytes", enforcement="Shadow") as client:
        for _ in range(3):
            await client.get("/thing")

    assert limiter.charged == [len(b'{"ok": true}')]


@pytest.mark.parametrize(
    ("choice", "statuses", "said"),
    [("Open", [200] * 14, "open"), ("Closed", [503] * 14, None), ("Local", [200] * 12 + [429] * 2, "local")],
)
async def test_without_redis_the_tier_chooses(choice: str, statuses: list[int], said: str | None):
    """RL-13: a quarter of the limit of 50 for each of four workers, or none, or all; and the response says so."""
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, workers=4, degradation={"onStoreLoss": choice}) as client:
        responses = [await client.get("/thing") for _ in range(14)]

    assert [response.status_code for response in responses] == statuses
    assert {response.headers.get("Tidegate-Limits") for response in responses} == {said}


async def test_a_share_of_less_than_one_is_refused_as_our_lack_of_capacity():
    """RL-5: 503, for the client has not spent its quota."""
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, workers=51) as client:
        response = await client.get("/thing")

    assert response.status_code == 503


async def test_a_redis_that_goes_and_comes_gives_nobody_a_fresh_share():
    """Each return would otherwise be worth another share of the limit."""
    limiter = FakeLimiter(room=100)
    async with conductor(limiter, workers=50) as client:
        statuses = []
        for limiter.is_away in (True, True, False, True, True):
            statuses.append((await client.get("/thing")).status_code)

    assert statuses == [200, 429, 200, 429, 429]


@pytest.mark.parametrize(("workers", "body"), [(0, b""), (4, b"x" * 13)])
async def test_an_unknown_share_or_one_below_the_request_is_our_lack_of_capacity(workers: int, body: bytes):
    """RL-5: the client has spent nothing, so it is 503; a worker that never saw its region takes no whole limit."""
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, workers=workers, body=body, unit="RequestBytes") as client:
        response = await client.get("/thing")

    assert response.status_code == 503


async def test_response_bytes_are_counted_locally_too():
    limiter = FakeLimiter()
    limiter.is_away = True
    async with conductor(limiter, unit="ResponseBytes", workers=5) as client:
        responses = [await client.get("/thing") for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 429]
    assert responses[0].headers["RateLimit"].startswith('"minute";r=0;')


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

    async def decide_and_leave(tids: tuple[str, ...], tier: Tier, amounts: Amounts) -> Decision:
        decision = await decide(tids, tier, amounts)
        limiter.is_away = True
        return decision

    limiter.decide = decide_and_leave
    async with conductor(limiter, unit="ResponseBytes", degradation={"onStoreLoss": "Closed"}) as client:
        response = await client.get("/thing")

    assert response.status_code == 200
    assert response.headers["RateLimit"] == '"minute";r=49;t=1'


async def test_the_cost_of_a_request_goes_by_its_route():
    limiter = FakeLimiter()
    async with conductor(limiter) as client:
        await client.get("/dear/export")

    assert limiter.asked == [Amounts(cost=7)]


@pytest.mark.parametrize(("enforcement", "status", "asked"), [("Enforce", 403, 0), ("Shadow", 200, 1)])
async def test_a_request_above_a_whole_limit_is_told_that_waiting_is_of_no_use(enforcement: str, status: int, asked: int):
    """It would get 429 for ever otherwise."""
    limiter = FakeLimiter()
    async with conductor(limiter, body=b"x" * 51, unit="RequestBytes", enforcement=enforcement) as client:
        response = await client.get("/thing")

    assert (response.status_code, len(limiter.asked)) == (status, asked)


@pytest.mark.parametrize(
    ("outcome", "away", "options"),
    [
        ("granted", False, {}),
        ("refused", False, {"room": 0}),
        ("shadow_refused", False, {"room": 0, "enforcement": "Shadow"}),
        ("local_granted", True, {}),
        ("local_refused", True, {"workers": 50, "before": 1}),
        ("open", True, {"degradation": {"onStoreLoss": "Open"}}),
        ("open", True, {"enforcement": "Shadow"}),
        ("failed", True, {"degradation": {"onStoreLoss": "Closed"}}),
        ("failed", True, {"workers": 51}),
        ("never_fits", False, {"body": b"x" * 51, "unit": "RequestBytes"}),
    ],
)
async def test_every_request_is_counted_once_by_what_became_of_it(outcome: str, away: bool, options: dict[str, object]):
    room, before = options.pop("room", 1), options.pop("before", 0)
    limiter, measures = FakeLimiter(room), Measures()
    limiter.is_away = away
    async with conductor(limiter, measures=measures, **options) as client:
        for _ in range(before):
            await client.get("/thing")
        measures.decisions.clear()
        await client.get("/thing")
        await client.get("/free")

    assert measures.decisions == {("pro", outcome): 1}
    assert outcome in OUTCOMES
