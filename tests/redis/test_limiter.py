"""The limiter against a real Valkey: its script agrees with the model, is atomic, writes only grants, and fails in time."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tidegate.contract import keys
from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.errors import LimitStoreUnavailableError, QuotaExceededError
from tidegate.limits.local import LocalLimiter
from tidegate.limits.measures import Measures
from tidegate.limits.middleware import LimitsMiddleware, replay_tier
from tidegate.limits.redis import RedisLimiter

KEY = keys.usage("t")
ONE = Amounts()


@pytest.fixture(autouse=True)
async def ended(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Every limiter that a test makes ends with it."""
    made: list[RedisLimiter] = []
    make = RedisLimiter.__init__
    monkeypatch.setattr(RedisLimiter, "__init__", lambda self, *given, **options: made.append(self) or make(self, *given, **options))
    yield
    for limiter in made:
        await limiter.aclose()


def tier(*windows: tuple[str, int, str] | tuple[str, int, str, str]) -> Tier:
    fields = ("name", "limit", "period", "unit")
    return Tier.from_spec("pro", {"windows": [dict(zip(fields, window, strict=False)) for window in windows]})


async def stored(redis: Redis) -> bytes | None:
    return await redis.get(KEY)


async def decide_many(limiter: RedisLimiter, held: Tier, times: int) -> list[Decision]:
    return [await limiter.decide(("t",), held, ONE) for _ in range(times)]


async def clock(redis: Redis) -> float:
    """The server's, in seconds."""
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1_000_000)


# --- decisions ---------------------------------------------------------------------------------------------------------


async def test_two_hundred_callers_at_once_get_exactly_the_limit(redis: Redis):
    """RL-11."""
    limiter, held = RedisLimiter(redis), tier(("hour", 50, "1h"))

    decisions = await asyncio.gather(*(limiter.decide(("t",), held, ONE) for _ in range(200)))

    assert sum(decision.granted for decision in decisions) == 50


async def test_a_refusal_by_one_window_charges_none_and_writes_nothing(redis: Redis):
    """RL-11, RL-12."""
    limiter, held = RedisLimiter(redis), tier(("minute", 100, "1m"), ("hour", 3, "1h"))
    await decide_many(limiter, held, 3)
    before, expiry = await stored(redis), await redis.pexpiretime(KEY)

    decision = await limiter.decide(("t",), held, ONE)

    assert (decision.granted, decision.violated) == (False, ("hour",))
    assert [state.used for state in decision.windows] == [3, 3]
    assert 3590 < decision.retry_after_seconds <= 3600.001
    assert (await stored(redis), await redis.pexpiretime(KEY)) == (before, expiry)


async def test_the_returned_wait_is_long_enough_and_no_longer(redis: Redis):
    """RL-4, on the server's clock: refused until the instant, granted from it."""
    limiter, held = RedisLimiter(redis), tier(("second", 3, "1s"))
    await decide_many(limiter, held, 3)
    asked_at = await clock(redis)
    first = await limiter.decide(("t",), held, ONE)
    passes_from, passes_at_the_latest = (at + first.retry_after_seconds for at in (asked_at, await clock(redis)))
    refused_at, began_at = asked_at, await clock(redis)

    while not (await limiter.decide(("t",), held, ONE)).granted:
        await asyncio.sleep(0.001)
        refused_at, began_at = began_at, await clock(redis)

    assert refused_at < passes_at_the_latest
    assert await clock(redis) >= passes_from - 0.01


async def test_every_unit_counts_its_own_amount(redis: Redis):
    limiter = RedisLimiter(redis)
    held = tier(("r", 10, "1m"), ("c", 10, "1m", "Cost"), ("in", 10, "1m", "RequestBytes"), ("out", 10, "1m", "ResponseBytes"))

    decision = await limiter.decide(("t",), held, Amounts(cost=4, request_bytes=9))

    assert [state.used for state in decision.windows] == [1, 4, 9, 0]


async def test_a_response_may_pass_the_limit_and_the_next_request_pays(redis: Redis):
    """VEC-2."""
    limiter, held = RedisLimiter(redis), tier(("egress", 100, "1m", "ResponseBytes"))
    granted = await limiter.decide(("t",), held, ONE)

    charged = await limiter.charge(("t",), held, response_bytes=5_000)
    refused = await limiter.decide(("t",), held, ONE)

    assert (granted.granted, charged.windows[0].used, refused.violated) == (True, 5_000, ("egress",))


async def test_a_look_changes_nothing(redis: Redis):
    limiter, held = RedisLimiter(redis), tier(("minute", 3, "1m"))
    unknown = await limiter.peek(("t",), held)
    await decide_many(limiter, held, 2)
    before = await stored(redis)

    decision = await limiter.peek(("t",), held)

    assert (unknown.windows[0].used, unknown.windows[0].reset_seconds) == (0, 0)
    assert decision.windows[0].used == 2
    assert 59 < decision.windows[0].reset_seconds <= 60.001
    assert await stored(redis) == before


async def test_an_edited_tier_keeps_what_was_used(redis: Redis):
    """RL-14: the limit is changed, a window is added, one removed and the order turned."""
    limiter = RedisLimiter(redis)
    await decide_many(limiter, tier(("minute", 100, "1m"), ("hour", 100, "1h")), 5)

    decision = await limiter.decide(("t",), tier(("day", 9, "24h"), ("hour", 5, "1h")), ONE)
    restored = await limiter.decide(("t",), tier(("minute", 50, "1m"), ("hour", 50, "1h")), ONE)

    assert decision.violated == ("hour",)
    assert [state.used for state in restored.windows] == [6, 6]


async def test_identities_share_nothing(redis: Redis):
    limiter, held = RedisLimiter(redis), tier(("minute", 1, "1m"))
    await limiter.decide(("a",), held, ONE)

    assert (await limiter.decide(("b",), held, ONE)).granted
    assert not (await limiter.decide(("a",), held, ONE)).granted


@pytest.mark.parametrize(("windows", "size"), [(1, 200), (3, 400), (8, 800)])
async def test_a_vector_is_small_and_leaves_by_itself(redis: Redis, windows: int, size: int):
    """Key included; gone once the longest has passed."""
    every = [(f"{unit.lower()}{hours}", 10**6, f"{hours}h", unit) for unit in ("Requests", "Cost", "RequestBytes") for hours in (1, 2, 3)]
    limiter, held, tid = RedisLimiter(redis), tier(*every[:windows]), "x" * 22
    longest = max(window.period_seconds for window in held.windows) * 1.1

    await limiter.decide((tid,), held, Amounts(1, 1))

    assert await redis.memory_usage(keys.usage(tid), samples=0) <= size
    assert longest - 10 < await redis.ttl(keys.usage(tid)) <= longest


# --- failures ----------------------------------------------------------------------------------------------------------


async def test_a_flushed_script_cache_is_filled_again(redis: Redis):
    limiter, held = RedisLimiter(redis), tier(("minute", 9, "1m"))
    await limiter.decide(("t",), held, ONE)
    await redis.script_flush()

    assert (await limiter.decide(("t",), held, ONE)).windows[0].used == 2


async def test_a_value_of_another_type_is_a_typed_error(redis: Redis):
    await redis.hset(KEY, "field", "value")

    with pytest.raises(LimitStoreUnavailableError, match="holds something else"):
        await RedisLimiter(redis).decide(("t",), tier(("minute", 9, "1m")), ONE)


async def test_a_vector_of_unknown_form_is_replaced_and_reported_once(redis: Redis):
    limiter, held = RedisLimiter(redis), tier(("minute", 9, "1m"))
    with capture_logs() as logs:
        for _ in range(2):
            await redis.set(KEY, b"\x07 not ours")
            assert (await limiter.decide(("t",), held, ONE)).windows[0].used == 1

    assert [entry["event"] for entry in logs] == ["usage vector of unknown form ignored"]


async def decides(limiter: RedisLimiter, held: Tier) -> bool:
    try:
        return (await limiter.decide(("t",), held, ONE)).granted
    except LimitStoreUnavailableError:
        return False


async def test_a_dead_server_is_a_typed_error_in_time_and_a_restarted_one_decides_again(
    valkeys: Callable[..., object], eventually: Callable[..., object]
):
    server = valkeys()
    held = tier(("minute", 9, "1m"))
    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis)
        await limiter.decide(("t",), held, ONE)
        server.kill()
        started = time.monotonic()

        with pytest.raises(LimitStoreUnavailableError):
            await limiter.decide(("t",), held, ONE)

        assert time.monotonic() - started < 1
        server.start()
        assert await eventually(lambda: decides(limiter, held), 1.0)


async def test_a_frozen_server_is_a_typed_error_in_time_for_every_caller(valkeys: Callable[..., object], eventually: Callable[..., object]):
    """Two hundred callers do not queue up for many timeouts behind it; who comes later is told at once; nothing is sent twice (W11)."""
    server = valkeys()
    held = tier(("minute", 900, "1m"))
    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis)
        await limiter.decide(("t",), held, ONE)
        server.freeze()
        started = time.monotonic()
        outcomes = await asyncio.gather(*(limiter.decide(("t",), held, ONE) for _ in range(200)), return_exceptions=True)
        elapsed = time.monotonic() - started
        with pytest.raises(LimitStoreUnavailableError):
            await limiter.decide(("t",), held, ONE)
        refused_in = time.monotonic() - started - elapsed
        server.thaw()
        await eventually(lambda: decides(limiter, held), 1.0)
        used = (await limiter.peek(("t",), held)).windows[0].used

    assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in outcomes)
    assert elapsed < 2
    assert refused_in < 0.05
    assert used <= 2 + 200


@pytest.mark.parametrize("loss", ["kill", "freeze"])
async def test_a_dead_redis_costs_a_request_less_than_a_millisecond(
    valkeys: Callable[..., object], eventually: Callable[..., object], loss: str
):
    """Once the circuit is open, what is decided without Redis included. The median and the processor's time, for machines are busy."""
    server, held, waits = valkeys(), tier(*((f"w{n}", 1_000_000, f"{n}h") for n in range(1, 4))), []
    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis, deadline_seconds=0.05)
        step = LimitsMiddleware(limiter, LocalLimiter(lambda: 1), replay_tier(600))
        await eventually(lambda: decides(limiter, held))
        getattr(server, loss)()
        with pytest.raises(LimitStoreUnavailableError):
            await limiter.decide(("t",), held, ONE)

        spent = time.process_time()
        for number in range(1_000):
            context = SimpleNamespace(tids=(str(number),), tier=held, body=b"")
            started = time.monotonic()
            await step.process_resource(
                SimpleNamespace(method="GET", uri_template="/", context=context), SimpleNamespace(complete=False), object(), {}
            )
            waits.append(time.monotonic() - started)
        spent = time.process_time() - spent

    assert statistics.median(waits) < 0.001
    assert spent / 1_000 < 0.001


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [("maxmemory", "1", "OOM"), ("min-replicas-to-write", "1", "NOREPLICAS")],
)
async def test_a_server_that_refuses_writes_is_a_typed_error(valkeys: Callable[..., object], setting: str, value: str, code: str):
    server = valkeys()
    async with server.client() as redis:
        limiter, held = RedisLimiter(redis), tier(("minute", 9, "1m"))
        await limiter.decide(("t",), held, ONE)
        await redis.config_set(setting, value)

        with pytest.raises(LimitStoreUnavailableError, match=code):
            await limiter.decide(("u",), held, ONE)


async def test_the_error_names_no_key(valkeys: Callable[..., object]):
    server = valkeys()
    async with server.client() as redis:
        await redis.config_set("maxmemory", "1")

        with pytest.raises(LimitStoreUnavailableError) as caught:
            await RedisLimiter(redis).decide(("secret-tid",), tier(("minute", 9, "1m")), ONE)

    assert "secret-tid" not in str(caught.value)


@pytest.mark.parametrize("loss", ["killed", "full"])
async def test_a_remembered_refusal_does_not_make_a_lost_redis_look_alive(valkeys: Callable[..., object], loss: str):
    """One customer who hammers must not give all others a fresh local share with every refusal; and one line is logged a change."""
    server, held = valkeys(), tier(("hour", 10, "1h"))
    request = lambda tid: SimpleNamespace(  # noqa: E731
        method="GET", uri_template="/", context=SimpleNamespace(tids=(tid,), tier=held, body=b"", request_id="r")
    )
    async with server.client(timeout=0.25) as redis:
        step = LimitsMiddleware(RedisLimiter(redis, deadline_seconds=0.25), LocalLimiter(lambda: 1), replay_tier(600))

        async def passes(tid: str) -> bool:
            with suppress(QuotaExceededError):
                await step.process_resource(request(tid), SimpleNamespace(complete=False), object(), {})
                return True
            return False

        for _ in range(10):
            assert await passes("a")
        assert not await passes("a")
        with capture_logs() as logs:
            if loss == "killed":
                server.kill()
            else:
                await redis.config_set("maxmemory", "1")
            until, granted = time.monotonic() + 1.5, 0
            while time.monotonic() < until:
                await passes("a")
                granted += await passes("b")
                await asyncio.sleep(0)

    assert granted <= 10
    assert [entry["event"] for entry in logs] == ["limits are not decided"]


async def test_whoever_waits_behind_a_frozen_server_is_failed_within_the_deadline(
    valkeys: Callable[..., object], eventually: Callable[..., object]
):
    """Not one batch after the other: many identities would wait for many deadlines."""
    server, held = valkeys(), tier(*((f"w{n}", 100, f"{n}h") for n in range(1, 9)))
    async with server.client(timeout=2) as redis:
        limiter = RedisLimiter(redis, deadline_seconds=0.1)
        await eventually(lambda: decides(limiter, held))
        server.freeze()
        started = time.monotonic()
        outcomes = await asyncio.gather(*(limiter.decide((str(n),), held, ONE) for n in range(2_000)), return_exceptions=True)
        elapsed = time.monotonic() - started
        server.thaw()
        await limiter.aclose()

    assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in outcomes)
    assert elapsed < 1.5


async def test_a_grant_goes_to_the_next_who_still_waits(redis: Redis):
    """A caller that left in flight must not take the last unit along."""
    limiter, held = RedisLimiter(redis), tier(("hour", 1, "1h"))
    left, stayed = (asyncio.ensure_future(limiter.decide(("t",), held, ONE)) for _ in range(2))
    while not limiter._commit._in_flight:
        await asyncio.sleep(0)
    left.cancel()

    assert (await stayed).granted


def done(outcome: bytes | Exception) -> asyncio.Future[bytes]:
    reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    if isinstance(outcome, bytes):
        reply.set_result(outcome)
    else:
        reply.set_exception(outcome)
    return reply


async def test_a_reply_that_cannot_be_read_fails_its_callers_and_is_logged(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    limiter = RedisLimiter(redis)

    monkeypatch.setattr(limiter._channel, "call", lambda *_: done(b"short"))
    with capture_logs() as logs, pytest.raises(LimitStoreUnavailableError, match="cannot be read"):
        await limiter.decide(("t",), tier(("hour", 1, "1h")), ONE)

    assert [entry["event"] for entry in logs] == ["the script's reply cannot be read", "limits are not decided"]


async def test_an_unexpected_error_fails_its_callers_and_is_logged(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """Nobody waits for ever for a batch that is no more."""
    limiter = RedisLimiter(redis)

    monkeypatch.setattr(limiter._channel, "call", lambda *_: done(LookupError()))
    with capture_logs() as logs, pytest.raises(LimitStoreUnavailableError, match="unexpected"):
        async with asyncio.timeout(1):
            await limiter.decide(("t",), tier(("hour", 1, "1h")), ONE)

    assert [entry["event"] for entry in logs] == ["a batch ended unexpectedly", "limits are not decided"]


async def test_a_batch_that_cannot_be_sent_fails_its_callers_and_stands_in_nobodys_way(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    limiter, held = RedisLimiter(redis), tier(("hour", 9, "1h"))
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(limiter._channel, "call", lambda *_: 1 / 0)
        for _ in range(3):
            with pytest.raises(LimitStoreUnavailableError, match="unexpected"):
                async with asyncio.timeout(1):
                    await limiter.decide(("t",), held, ONE)

    assert [entry["event"] for entry in logs] == ["a batch was not sent"] * 3
    assert (await limiter.decide(("t",), held, ONE)).windows[0].used == 1


async def test_the_first_decision_of_a_worker_finds_a_connection(redis: Redis, slowly: Callable[..., Any]):
    """To connect takes longer than a decision may, and what a worker that has just come would admit without Redis is nothing."""
    held = tier(("hour", 9, "1h"))
    await RedisLimiter(redis).decide(("t",), held, ONE)  # from now on the script is there
    cold, warm = [RedisLimiter(await slowly(0.15), deadline_seconds=0.5) for _ in range(2)]

    await warm.start()

    assert (await warm.decide(("t",), held, ONE)).windows[0].used == 2
    with pytest.raises(LimitStoreUnavailableError, match="in time"):
        await cold.decide(("t",), held, ONE)


async def test_a_worker_that_starts_waits_for_its_redis_to_let_it_through(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """As in a network that lets a new pod through only when policies have reached all nodes."""
    limiter, refused = RedisLimiter(redis), [False, False]
    connect = limiter._channel.open

    async def let_through_at_last() -> bool:
        return refused.pop() if refused else await connect()

    monkeypatch.setattr(limiter._channel, "open", let_through_at_last)
    monkeypatch.setattr("tidegate.limits.redis.RETRY_SECONDS", 0.001)
    before = (await redis.info("stats"))["total_connections_received"]

    await limiter.start()

    assert refused == []
    assert (await redis.info("stats"))["total_connections_received"] == before + 1


async def test_a_redis_that_is_away_stops_no_start(port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tidegate.limits.redis.START_SECONDS", 0.05)
    async with Redis(port=port, retry=None) as nobody:
        limiter = RedisLimiter(nobody)

        await limiter.start()

        with pytest.raises(LimitStoreUnavailableError):
            await limiter.decide(("t",), tier(("hour", 9, "1h")), ONE)


@pytest.mark.parametrize("turns", range(4))
async def test_a_worker_that_stands_still_does_not_take_redis_for_lost(redis: Redis, turns: int):
    """A slow handler or a throttled container must not hand out what `onStoreLoss: Open` gives: the answer is here, but not read yet."""
    limiter, held = RedisLimiter(redis, deadline_seconds=0.25), tier(("hour", 9, "1h"))
    await limiter.decide(("t",), held, ONE)
    asked = asyncio.ensure_future(limiter.decide(("t",), held, ONE))
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(0.5)

    assert (await asked).windows[0].used == 2


async def test_an_answer_that_comes_in_the_turn_of_its_being_given_up_counts(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """A worker that stands still twice: what Redis granted is not granted once more by `onStoreLoss`, and the batch is counted out once."""
    limiter, held, replies = RedisLimiter(redis, deadline_seconds=0.05), tier(("hour", 9, "1h")), []
    call, give_up = limiter._channel.call, limiter._give_up

    def hold_back(*parts: Any) -> asyncio.Future[bytes]:
        replies.append(call(*parts))
        return asyncio.get_running_loop().create_future()

    def answer_first(flight: Any) -> None:
        flight.reply.set_result(replies[0].result())
        give_up(flight)

    monkeypatch.setattr(limiter._channel, "call", hold_back)
    monkeypatch.setattr(limiter, "_give_up", answer_first)

    assert (await limiter.decide(("t",), held, ONE)).windows[0].used == 1
    assert limiter._commit._in_flight == 0


async def test_after_a_loss_no_more_batches_are_under_way_than_before(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., object]
):
    """Nor fewer: a lost batch is counted out once, whatever comes of it."""
    limiter, held, most = RedisLimiter(redis, deadline_seconds=0.05), tier(("hour", 9, "1h")), 0

    def never_answered(*_: object) -> asyncio.Future[bytes]:
        nonlocal most
        most = max(most, limiter._commit._in_flight)
        return asyncio.get_running_loop().create_future()

    async def ask(times: int) -> list[object]:
        asked = []
        for number in range(times):
            asked.append(asyncio.ensure_future(limiter.decide((str(number),), held, ONE)))
            for _ in range(5):
                await asyncio.sleep(0)
        return await asyncio.gather(*asked, return_exceptions=True)

    for _ in range(3):
        await eventually(lambda: decides(limiter, held), 1.0)
        most = 0
        with monkeypatch.context() as patch:
            patch.setattr(limiter._channel, "call", never_answered)
            outcomes = await ask(4)
        assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in outcomes)
        assert most == 2


async def test_whoever_finds_no_turn_in_time_is_not_kept_waiting(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """Redis answers each batch in time, but there are too many of them. Its answers move the clock: a busy machine changes nothing."""
    limiter, held, now = RedisLimiter(redis, deadline_seconds=5), tier(*((f"w{n}", 100, f"{n}h") for n in range(1, 9))), 0.0
    call = limiter._channel.call

    def take_a_second(_: object) -> None:
        nonlocal now
        now += 1

    def call_slowly(*parts: object) -> object:
        reply = call(*parts)
        reply.add_done_callback(take_a_second)
        return reply

    monkeypatch.setattr(limiter._channel, "call", call_slowly)
    monkeypatch.setattr("tidegate.limits.redis.time", SimpleNamespace(monotonic=lambda: now))

    outcomes = await asyncio.gather(*(limiter.decide((str(n),), held, ONE) for n in range(2_000)), return_exceptions=True)

    # Two are under way at a time: when the first that comes too late for the others is here, the second is, too.
    assert 5 < now <= 7
    assert {type(outcome) for outcome in outcomes} == {Decision, LimitStoreUnavailableError}
    assert all("no turn" in str(outcome) for outcome in outcomes if not isinstance(outcome, Decision))


async def test_a_refusal_is_remembered_from_when_it_was_asked_for(slowly: Callable[..., object]):
    """On a slow network it would hold for longer than it must if it counted from its answer."""
    measures = Measures()
    limiter, held = RedisLimiter(await slowly(0.15), deadline_seconds=5, measures=measures), tier(("second", 1, "1s"))
    await limiter.decide(("t",), held, ONE)
    asked_at = time.monotonic()
    refused = await limiter.decide(("t",), held, ONE)
    await asyncio.sleep(asked_at + refused.retry_after_seconds + 0.01 - time.monotonic())
    await limiter.decide(("t",), held, ONE)

    assert not refused.granted
    assert measures.remembered_refusals == 0


async def test_a_refusal_is_remembered_from_before_it_was_sent(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """A worker that loses its processor just then would remember it for too long."""
    measures = Measures()
    limiter, held = RedisLimiter(redis, measures=measures), tier(("second", 1, "1s"))
    await limiter.decide(("t",), held, ONE)
    call = limiter._channel.call

    def call_and_stand_still(*parts: object) -> object:
        reply = call(*parts)
        time.sleep(0.2)
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(limiter._channel, "call", call_and_stand_still)
        asked_at = time.monotonic()
        refused = await limiter.decide(("t",), held, ONE)
    await asyncio.sleep(asked_at + refused.retry_after_seconds + 0.05 - time.monotonic())
    await limiter.decide(("t",), held, ONE)

    assert not refused.granted
    assert measures.remembered_refusals == 0


async def test_whoever_hammers_costs_redis_nothing(redis: Redis):
    measures = Measures()
    limiter, held = RedisLimiter(redis, measures=measures), tier(("hour", 1, "1h"))
    decisions = await decide_many(limiter, held, 50)

    assert [decision.granted for decision in decisions] == [True] + [False] * 49
    assert (sum(measures.batch_decisions.counts), measures.remembered_refusals) == (2, 48)


async def test_a_connection_that_let_a_batch_wait_too_long_is_replaced(valkeys: Callable[..., object], eventually: Callable[..., object]):
    """Its other end may be gone without a word, and every batch would wait for it."""
    server, held = valkeys(), tier(("hour", 9, "1h"))
    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis, deadline_seconds=0.05)
        await eventually(lambda: decides(limiter, held))
        before = (await redis.info("stats"))["total_connections_received"]
        server.freeze()
        assert not await decides(limiter, held)
        server.thaw()
        await eventually(lambda: decides(limiter, held))

        assert (await redis.info("stats"))["total_connections_received"] > before


async def test_a_stop_fails_whoever_waits_and_leaves_no_task(valkeys: Callable[..., object]):
    server, held = valkeys(), tier(("hour", 9, "1h"))
    async with server.client(timeout=5) as redis:
        limiter = RedisLimiter(redis, deadline_seconds=5)
        await limiter.decide(("t",), held, ONE)
        server.freeze()
        waiting = [asyncio.ensure_future(limiter.decide((str(n),), held, ONE)) for n in range(3)]
        while not limiter._commit._in_flight:
            await asyncio.sleep(0)

        await limiter.aclose()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        server.thaw()

    assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in outcomes)
    assert limiter._commit._in_flight == 0


# --- two names of one identity -------------------------------------------------------------------------------------------


async def test_a_vector_moves_to_the_new_name_on_first_touch_with_all_that_was_used(redis: Redis):
    """VEC-3: a replaced key of pseudonyms refills nothing, not even in part; the expiry moves along."""
    limiter, held = RedisLimiter(redis), tier(("minute", 100, "1m"), ("hour", 20, "1h"))
    for _ in range(5):
        await limiter.decide(("old",), held, ONE)
    expiry = await redis.pexpiretime(keys.usage("old"))

    decision = await limiter.decide(("new", "old"), held, ONE)

    assert [state.used for state in decision.windows] == [6, 6]
    assert not await redis.exists(keys.usage("old"))
    assert await redis.pexpiretime(keys.usage("new")) >= expiry


async def test_workers_that_prefer_different_names_count_together(redis: Redis):
    """In the middle of a rollout some workers count under the one name and some under the other: one vector follows them."""
    old, new, held = RedisLimiter(redis), RedisLimiter(redis), tier(("hour", 50, "1h"))

    decisions = [
        decision
        for _ in range(40)
        for decision in await asyncio.gather(old.decide(("old", "new"), held, ONE), new.decide(("new", "old"), held, ONE))
    ]

    assert sum(decision.granted for decision in decisions) == 50


async def test_a_look_finds_a_vector_under_its_other_name(redis: Redis):
    limiter, held = RedisLimiter(redis), tier(("minute", 100, "1m"))
    await limiter.decide(("old",), held, ONE)

    assert (await limiter.peek(("new", "old"), held)).windows[0].used == 1


async def test_a_batch_that_would_hold_redis_for_long_is_decided_in_parts(redis: Redis):
    """Vectors that hold windows of other tiers besides cost more than a worker can know; nobody is forgotten, nor decided twice."""
    measures = Measures()
    limiter, names = RedisLimiter(redis, measures=measures), [(f"{number}",) for number in range(100)]
    others, held = tier(*((f"w{n}", 100, f"{n + 1}h", "Cost") for n in range(8))), tier(("minute", 17, "1m"))
    await asyncio.gather(*(limiter.decide(name, others, ONE) for name in names))

    for used in range(1, 20):
        decisions = await asyncio.gather(*(limiter.decide(name, held, ONE) for name in names))
        assert [decision.granted for decision in decisions] == [used <= 17] * 100
        batches = sum(measures.batch_decisions.counts)
        if used == 17:
            before = batches

    assert [decision.windows[0].used for decision in decisions] == [17] * 100
    assert batches - before >= 3


# --- sizes and changes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2**53 - 1])
async def test_the_smallest_and_the_largest_limit_are_exact(redis: Redis, limit: int):
    limiter = RedisLimiter(redis)
    held = tier(("requests", limit, "744h"), ("work", limit, "744h", "Cost"))

    decisions = [await limiter.decide(("t",), held, Amounts(cost=cost)) for cost in (limit, 1)]

    assert [decision.granted for decision in decisions] == [True, False]
    assert decisions[0].windows[1].remaining == 0


async def test_eight_windows_of_all_units_are_charged_alike(redis: Redis):
    units = ("Requests", "Cost", "RequestBytes", "ResponseBytes")
    limiter, held = (
        RedisLimiter(redis),
        tier(*((f"{unit.lower()}{hours}", 1000, f"{hours}h", unit) for unit in units for hours in (1, 744))),
    )

    await limiter.decide(("t",), held, Amounts(cost=3, request_bytes=70))
    decision = await limiter.charge(("t",), held, response_bytes=900)

    assert [state.used for state in decision.windows] == [1, 1, 3, 3, 70, 70, 900, 900]


async def test_a_restarted_redis_that_lost_its_data_counts_from_nothing(valkeys: Callable[..., object], eventually: Callable[..., object]):
    server, held = valkeys(), tier(("hour", 3, "1h"))
    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis)
        await decide_many(limiter, held, 3)
        server.kill()
        server.start()

        await eventually(lambda: decides(limiter, held), 2.0)
        assert (await limiter.peek(("t",), held)).windows[0].used == 1


async def test_a_tier_that_changes_while_a_batch_is_under_way_harms_no_answer(slowly: Callable[..., object]):
    """Each request is answered as its own tier asked, with its own windows."""
    limiter = RedisLimiter(await slowly(0.02), deadline_seconds=5)
    old, new = tier(("minute", 2, "1m")), tier(("hour", 9, "1h"), ("work", 9, "1h", "Cost"))
    await limiter.peek(("t",), old)

    answers = [asyncio.ensure_future(limiter.decide(("t",), held, ONE)) for held in (old, old, new, old, new)]
    decisions = await asyncio.gather(*answers)

    assert [[state.window.name for state in decision.windows] for decision in decisions] == [
        [window.name for window in held.windows] for held in (old, old, new, old, new)
    ]
    assert [decision.granted for decision in decisions] == [True, True, True, False, True]


async def test_a_slow_redis_is_lost_at_the_deadline(slowly: Callable[..., object]):
    """An answer after it would hold up every request."""
    limiter, held = RedisLimiter(await slowly(1), deadline_seconds=0.05), tier(("hour", 9, "1h"))
    started = time.monotonic()

    with pytest.raises(LimitStoreUnavailableError, match="no answer in time"):
        await limiter.decide(("t",), held, ONE)

    # The answer would be there after 2 s.
    assert 0.05 <= time.monotonic() - started < 1


# --- what is measured --------------------------------------------------------------------------------------------------


async def test_batches_their_round_trips_and_remembered_refusals_are_measured(redis: Redis):
    measures = Measures()
    limiter, held = RedisLimiter(redis, measures=measures), tier(("hour", 40, "1h"))
    await limiter.decide(("t",), held, ONE)

    await asyncio.gather(*(limiter.decide(("t",), held, ONE) for _ in range(40)))
    remembered = await decide_many(limiter, held, 3)

    assert [decision.granted for decision in remembered] == [False] * 3
    assert measures.remembered_refusals == 3
    assert measures.batch_decisions.total == 41
    assert measures.batch_decisions.counts[0] == 1
    assert measures.batch_decisions.counts[6] == 1  # above 32, at most 64
    assert sum(measures.round_trip_seconds.counts) == 2
    assert 0 < measures.round_trip_seconds.total < 1


@pytest.mark.parametrize("loss", ["killed", "frozen", "full"])
async def test_a_lost_redis_shows_until_it_grants_again(valkeys: Callable[..., object], eventually: Callable[..., object], loss: str):
    server, held, measures = valkeys(), tier(("hour", 1_000_000, "1h")), Measures()

    async with server.client(timeout=0.25) as redis:
        limiter = RedisLimiter(redis, deadline_seconds=0.1, measures=measures)

        async def ask(expected: bool) -> bool:
            with suppress(LimitStoreUnavailableError):
                await limiter.decide(("t",), held, ONE)
            return bool(measures.lost) is expected

        await eventually(lambda: ask(False), 2)
        before = bool(measures.lost)
        if loss == "full":
            await redis.config_set("maxmemory", "1")
        else:
            {"killed": server.kill, "frozen": server.freeze}[loss]()
        await eventually(lambda: ask(True), 2)
        if loss == "full":
            await redis.config_set("maxmemory", "0")
        else:
            {"killed": server.start, "frozen": server.thaw}[loss]()
        await eventually(lambda: ask(False), 2)
        await limiter.aclose()

    assert before is False
