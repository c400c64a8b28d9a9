"""An effect outside of the store: claimed, carried out once, reconciled; with a real Valkey and a payment provider over HTTP."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import falcon.asgi
import httpx
import pytest
from aiohttp import web
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from tidegate import problems
from tidegate.body import BodyMiddleware
from tidegate.contract.tier import Tier
from tidegate.idempotency.fault_points import FaultPoint, Reached, go_on
from tidegate.idempotency.journal import LEASE_SECONDS, TOMBSTONE_SECONDS, Journal
from tidegate.idempotency.middleware import ReplayMiddleware
from tidegate.idempotency.record import Claim
from tidegate.idempotency.sealing import Sealer
from tidegate.idempotency.transaction import ATTEMPTS, TransactionMiddleware
from tidegate.identity.middleware import AuthorizationMiddleware
from tidegate.identity.principal import Principal
from tidegate.local.payment_provider import LEDGER, Fault, Ledger, make_app
from tidegate.payments.errors import ProviderUnavailableError
from tidegate.payments.http import HttpPaymentProvider
from tidegate.resources.credits import Purchases
from tidegate.resources.errors import PaymentDeclinedError
from tidegate.resources.payments import PaymentEntry, Payments
from tidegate.routing import Router
from tidegate.store.base import Conflict, Write
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.redis import RedisStore
from tidegate.telemetry import Draining, TelemetryMiddleware

TIER = Tier.from_spec("free", {"windows": [{"name": "second", "limit": 10, "period": "1s"}]})
PAYMENTS = "/v1/payments"
SEALER = Sealer(b"r" * 32)


class FakeIdentity:
    """Gives everybody the scopes of the header `Scopes`."""

    async def process_resource(self, req, resp, resource, params):
        scopes = frozenset((req.get_header("Scopes") or "payments").split())
        req.context.principal = Principal("iss", "acme", "web", "ann", "free", scopes, 0)
        req.context.tier, req.context.tids = TIER, ("t" * 22,)


class FakeCrash(BaseException):
    """Ends a request as the end of its process would: nothing of it is cleaned up."""


def client_of(
    store, provider, *, sealer: Sealer = SEALER, reached: Reached = go_on, lease_seconds: int = LEASE_SECONDS, **routes: object
) -> httpx.AsyncClient:
    router, journal = Router(), Journal(store, sealer, lease_seconds=lease_seconds)
    app = falcon.asgi.App(
        router=router,
        middleware=[
            TelemetryMiddleware("here", Draining()),
            FakeIdentity(),
            AuthorizationMiddleware(),
            BodyMiddleware(65_536),
            ReplayMiddleware(journal, b"s" * 32, router.mutations, reached=reached),
            TransactionMiddleware(journal, problems.render, reached=reached),
        ],
    )
    problems.install(app)
    app.add_route(PAYMENTS, routes.get("payments") or Payments(provider))
    app.add_route(PAYMENTS + "/{payment_id}", PaymentEntry(store))
    if "shops" in routes:
        app.add_route(*routes["shops"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api.test")


class Contested(Payments):
    """Somebody else changes what the handler has read, in so many of its runs."""

    def __init__(self, provider, store, *, changes: int) -> None:
        super().__init__(provider)
        self._store = store
        self._changes = changes
        self.runs = 0

    async def on_post(self, req, resp):
        self.runs += 1
        await req.context.unit_of_work.read("contested")
        if self.runs <= self._changes:
            await self._store.commit({}, [Write("contested", b"%d" % self.runs)])
        await super().on_post(req, resp)


@dataclass
class Provider:
    """The fake provider and the adapter that speaks to it."""

    ledger: Ledger
    adapter: HttpPaymentProvider

    def taken(self) -> list[int]:
        """How often each effect was charged."""
        return [len(charges) for charges in self.ledger.charges.values()]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    app = make_app(None)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    adapter = HttpPaymentProvider(f"http://127.0.0.1:{runner.addresses[0][1]}", timeout_seconds=0.5)
    yield Provider(app[LEDGER], adapter)
    await adapter.close()
    await runner.cleanup()


@pytest.fixture
async def api(store: RedisStore, provider: Provider) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(store, provider.adapter) as client:
        yield client


def key() -> dict[str, str]:
    return {"Idempotency-Key": f'"{uuid.uuid4()}"'}


async def pay(api: httpx.AsyncClient, headers: dict[str, str], amount: int = 100) -> httpx.Response:
    return await api.post(PAYMENTS, json={"amount": amount}, headers=headers)


def kind(response: httpx.Response) -> str:
    return response.json()["type"].rsplit("/", 1)[1]


async def find_no_effect(store: RedisStore, redis: Redis) -> None:
    """As an operator who has looked for the effect of the one claim there is."""
    journal = Journal(store, SEALER)
    (name,) = [name.decode().rpartition("/")[2] for name in await redis.keys("*result/*")]
    found = await journal.look_up(name)
    assert isinstance(found.record, Claim)
    await journal.mark_absent(name, found.record, version=found.version)


async def end_leases(redis: Redis) -> None:
    """As time does."""
    for name in await redis.keys("*lease/*"):
        await redis.delete(name)


async def test_a_payment_is_taken_once_and_kept(api, provider):
    headers = key()

    first, again = [await pay(api, headers) for _ in range(2)]

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["amount"] == 100
    assert again.content == first.content
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert (await api.get(first.headers["Location"])).json() == first.json()
    assert provider.taken() == [1]


async def test_two_payments_are_two_effects(api, provider):
    """B12: alike as they are, their keys tell them apart."""
    await pay(api, key())
    await pay(api, key())

    assert provider.taken() == [1, 1]


async def test_a_declined_payment_stays_declined(api, provider):
    """IDEM-10: an answer, and a final one."""
    headers = key()
    provider.ledger.faults.append(Fault("decline"))

    answers = [await pay(api, headers) for _ in range(2)]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(402, "payment-declined")] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert provider.taken() == []


@pytest.mark.parametrize(
    ("fault", "charged_before"),
    [("refuse", 0), ("fail", 0), ("fail_after_charging", 1), ("drop_reply", 1), ("garbage", 1), ("hold", 1)],
)
async def test_a_provider_that_fails_leaves_an_unknown_outcome_that_the_retry_reconciles(api, provider, redis, fault, charged_before):
    """IDEM-10 and W3: at once, without waiting for a lease; and one charge, whether the first attempt made it or not."""
    headers = key()
    provider.ledger.faults.append(Fault(fault))
    failed = await pay(api, headers)
    taken_before = sum(provider.taken())

    answers = [await pay(api, headers) for _ in range(2)]

    assert (failed.status_code, kind(failed), failed.headers["Retry-After"]) == (503, "payment-outcome-unknown", "1")
    assert taken_before == charged_before
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert provider.taken() == [1]
    assert await redis.keys("*lease/*") == []


async def test_a_slow_provider_is_waited_for_and_a_duplicate_is_told_to_come_back(api, provider):
    """IDEM-7."""
    headers = key()
    provider.ledger.faults.append(Fault("hold"))
    first = asyncio.create_task(pay(api, headers))
    while not provider.taken():
        await asyncio.sleep(0.005)

    duplicate, other = await pay(api, headers), await pay(api, headers, 200)
    provider.ledger.cleared.set()

    assert (duplicate.status_code, kind(duplicate), duplicate.headers["Retry-After"]) == (409, "idempotency-in-progress", "1")
    assert (other.status_code, kind(other)) == (422, "idempotency-key-reused")
    assert (await first).status_code == 201
    assert (await pay(api, headers)).content == (await first).content
    assert provider.taken() == [1]


async def test_fifty_identical_payments_at_once_are_one(store, provider):
    """IDEM-9, B4a, over two applications: the others get the same or are told to come back."""
    headers = key()
    async with client_of(store, provider.adapter) as here, client_of(store, provider.adapter) as there:
        answers = await asyncio.gather(*(pay(api, headers) for api in [here, there] * 25))

        assert {answer.status_code for answer in answers} == {201, 409}
        assert {kind(answer) for answer in answers if answer.status_code == 409} == {"idempotency-in-progress"}
        assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
        assert provider.taken() == [1]


CRASHES = [FaultPoint.CLAIMED, FaultPoint.EFFECT_DONE, FaultPoint.BEFORE_COMMIT]


@pytest.mark.parametrize("point", CRASHES)
async def test_a_crash_leaves_a_claim_that_blocks_until_its_lease_ends_and_is_then_reconciled(store, provider, redis, point, monkeypatch):
    """W1, W3, IDEM-12: an expired lease is no permission, it is a question to the provider."""
    headers = key()
    crashing = _crash_at(point, monkeypatch)
    async with client_of(store, provider.adapter, reached=crashing) as doomed, client_of(store, provider.adapter) as api:
        with pytest.raises(FakeCrash):
            await pay(doomed, headers)
        blocked = await pay(api, headers)
        await end_leases(redis)
        answer = await pay(api, headers)

        assert (blocked.status_code, kind(blocked)) == (409, "idempotency-in-progress")
        assert answer.status_code == 201
        assert (await pay(api, headers)).content == answer.content
        assert provider.taken() == [1]
        assert set(provider.ledger.fencing.values()) == {2}


def _crash_at(point: FaultPoint, monkeypatch: pytest.MonkeyPatch) -> Reached:
    """A worker that ends there; nothing that would clean up after it runs."""

    async def nothing(*_: object, **__: object) -> None:
        pass

    def reached(at: FaultPoint) -> None:
        if at is point:
            monkeypatch.setattr(Journal, "release", nothing)
            raise FakeCrash

    return reached


async def test_a_late_owner_is_fenced_off(store, provider, redis):
    """IDEM-11, IDEM-13, W5, B2: it stops in the middle, its lease ends, another worker finishes; what it then wants is refused."""
    headers, resumed, arrived = key(), asyncio.Event(), asyncio.Event()

    class Stopped:
        """A provider that is reached only after a long sleep."""

        async def charge(self, amount, currency, *, effect_id, fencing):
            arrived.set()
            await resumed.wait()
            return await provider.adapter.charge(amount, currency, effect_id=effect_id, fencing=fencing)

        find = provider.adapter.find

    async with client_of(store, Stopped()) as late, client_of(store, provider.adapter) as api:
        first = asyncio.create_task(pay(late, headers))
        await arrived.wait()
        await end_leases(redis)
        answer = await pay(api, headers)
        resumed.set()
        late_answer = await first

        assert answer.status_code == 201
        assert late_answer.status_code == 503
        assert (await pay(late, headers)).content == answer.content
        assert provider.taken() == [1]


async def test_a_late_owner_whose_effect_was_adopted_answers_with_the_adopters_result(store, provider, redis):
    """IDEM-13: it never says more than the store."""
    headers, resumed, arrived = key(), asyncio.Event(), asyncio.Event()

    class Stopped:
        """Charges, and sleeps before it says so."""

        async def charge(self, amount, currency, *, effect_id, fencing):
            charge = await provider.adapter.charge(amount, currency, effect_id=effect_id, fencing=fencing)
            arrived.set()
            await resumed.wait()
            return charge

        find = provider.adapter.find

    async with client_of(store, Stopped()) as late, client_of(store, provider.adapter) as api:
        first = asyncio.create_task(pay(late, headers))
        await arrived.wait()
        await end_leases(redis)
        answer = await pay(api, headers)
        resumed.set()
        late_answer = await first

        assert late_answer.content == answer.content
        assert late_answer.headers["Idempotent-Replayed"] == "true"
        assert provider.taken() == [1]


async def test_a_claim_is_renewed_while_its_handler_runs(store, provider, redis):
    """B1, B4: a handler may take longer than a lease."""
    headers = key()
    provider.ledger.faults.append(Fault("hold"))
    async with client_of(store, provider.adapter, lease_seconds=1) as api:
        first = asyncio.create_task(pay(api, headers))
        while not provider.taken():
            await asyncio.sleep(0.005)
        await end_leases(redis)
        deadline = time.monotonic() + 5
        while not (renewed := await redis.keys("*lease/*")) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        provider.ledger.cleared.set()

        assert len(renewed) == 1
        assert (await first).status_code == 201
        assert await redis.keys("*lease/*") == []


async def test_an_owner_that_slept_through_its_lease_begins_nothing(store, provider):
    """W5: a process that was stopped between its claim and its effect."""
    headers = key()

    def sleep(point: FaultPoint) -> None:
        if point is FaultPoint.CLAIMED:
            time.sleep(1.1)  # the whole process does, not a task of it

    async with client_of(store, provider.adapter, reached=sleep, lease_seconds=1) as asleep:
        answer = await pay(asleep, headers)

    assert answer.status_code == 409
    assert provider.taken() == []
    async with client_of(store, provider.adapter) as api:
        assert (await pay(api, headers)).status_code == 201
        assert provider.taken() == [1]


async def test_a_claim_that_vanishes_after_the_look_up_is_no_permission(api, store, provider, valkey):
    """B4b: whatever has happened to it, the effect is not repeated on what is not known any more."""
    headers = key()
    provider.ledger.faults.append(Fault("fail_after_charging"))
    await pay(api, headers)

    def vanish(point: FaultPoint) -> None:
        if point is FaultPoint.LOOKED_UP:
            with BlockingRedis(port=valkey.port) as client:
                client.delete(*client.keys("*result/*"))

    async with client_of(store, provider.adapter, reached=vanish) as unlucky:
        answer = await pay(unlucky, headers)

    assert (answer.status_code, kind(answer)) == (409, "mutation-conflict")
    assert provider.taken() == [1]


async def test_a_claim_never_expires_by_itself(api, provider, redis):
    """B5, W6: a record that vanished would be taken for none, and charged again."""
    provider.ledger.faults.append(Fault("fail_after_charging"))
    await pay(api, key())

    (claim,) = await redis.keys("*result/*")
    assert await redis.ttl(claim) == -1


async def test_without_a_way_to_reconcile_an_operator_is_waited_for(store, provider):
    """IDEM-12."""

    class Blind:
        async def on_post(self, req, resp):
            await req.context.effect.carry_out(
                lambda effect: provider.adapter.charge(1, "EUR", effect_id=effect.id, fencing=effect.fencing)
            )

    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    async with client_of(store, provider.adapter, payments=Blind()) as api:
        answers = [await pay(api, headers) for _ in range(3)]

        assert [answer.status_code for answer in answers] == [503, 409, 409]
        assert kind(answers[1]) == "idempotency-outcome-unknown"
        assert provider.taken() == [1]


async def test_a_handler_that_runs_again_does_not_repeat_its_effect(store, provider):
    """Its data changed meanwhile: the ledger is written on what is there now, and the charge is the one that was made."""
    contested = Contested(provider.adapter, store, changes=2)
    async with client_of(store, provider.adapter, payments=contested) as api:
        answer = await pay(api, key())

        assert (answer.status_code, contested.runs) == (201, 3)
        assert provider.taken() == [1]


async def test_an_effect_whose_data_kept_changing_is_not_called_nothing(store, provider):
    """Whoever is told that nothing was done may use another key, and is charged twice."""
    headers = key()
    async with client_of(store, provider.adapter, payments=Contested(provider.adapter, store, changes=ATTEMPTS)) as api:
        given_up, again = await pay(api, headers), await pay(api, headers)

    assert (given_up.status_code, kind(given_up)) == (409, "idempotency-outcome-unknown")
    assert again.status_code == 201
    assert provider.taken() == [1]


async def test_a_refusal_after_the_effect_is_our_mistake(store, provider):
    """Stored as the result, it would hide a charge that was made, and its customer would try again under another key."""

    class Fickle(Payments):
        async def on_post(self, req, resp):
            await super().on_post(req, resp)
            raise PaymentDeclinedError("changed its mind")

    headers = key()
    async with client_of(store, provider.adapter, payments=Fickle(provider.adapter)) as fickle:
        refused = await pay(fickle, headers)
    async with client_of(store, provider.adapter) as mended:
        answer = await pay(mended, headers)

    assert (refused.status_code, answer.status_code) == (500, 201)
    assert provider.taken() == [1]


@pytest.mark.parametrize("is_raised", [True, False])
async def test_an_effect_that_a_repeated_run_no_longer_wants_is_not_hidden_by_its_refusal(store, provider, is_raised):
    """What it decided on has changed after the charge: only a person can put that right, and nobody may try again under another key."""

    class Funded(Payments):
        async def on_post(self, req, resp):
            if await req.context.unit_of_work.read("funds") is not None:
                await store.commit({}, [Write("funds", None)])  # somebody else spends them now
                await super().on_post(req, resp)
            elif is_raised:
                raise PaymentDeclinedError("no funds")
            else:
                resp.status, resp.media = falcon.HTTP_402, {}

    headers = key()
    await store.commit({}, [Write("funds", b"1")])
    async with client_of(store, provider.adapter, payments=Funded(provider.adapter)) as api:
        answers = [await pay(api, headers) for _ in range(2)]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(409, "idempotency-outcome-unknown")] * 2
    assert provider.taken() == [1]


async def test_an_effect_that_was_refused_holds_no_repeated_run_to_it(store, provider):
    """Nothing was done outside, so whatever the handler decides on what has changed is the result."""
    provider.ledger.faults.append(Fault("decline"))

    class Funded(Payments):
        async def on_post(self, req, resp):
            if await req.context.unit_of_work.read("funds") is not None:
                await store.commit({}, [Write("funds", None)])
                await super().on_post(req, resp)
            resp.status, resp.media = falcon.HTTP_409, {"type": "/no-funds"}

    headers = key()
    await store.commit({}, [Write("funds", b"1")])
    async with client_of(store, provider.adapter, payments=Funded(provider.adapter)) as api:
        answers = [await pay(api, headers) for _ in range(2)]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(409, "no-funds")] * 2
    assert provider.taken() == []


async def test_a_second_effect_of_one_mutation_is_our_mistake(store, provider):
    class Greedy(Payments):
        async def on_post(self, req, resp):
            await super().on_post(req, resp)
            await super().on_post(req, resp)

    async with client_of(store, provider.adapter, payments=Greedy(provider.adapter)) as api:
        assert (await pay(api, key())).status_code == 500
        assert provider.taken() == [1]


async def test_a_failure_after_the_effect_is_adopted_by_the_retry(store, provider):
    """W3, actor-ts #984: charged, then failed, and not charged again."""

    class FailsOnce(Payments):
        is_broken = True

        async def on_post(self, req, resp):
            await super().on_post(req, resp)
            if self.is_broken:
                self.is_broken = False
                raise RuntimeError("bug")

    headers = key()
    async with client_of(store, provider.adapter, payments=FailsOnce(provider.adapter)) as api:
        answers = [await pay(api, headers) for _ in range(2)]

        assert [answer.status_code for answer in answers] == [500, 201]
        assert provider.taken() == [1]


class Losing(RedisStore):
    """Commits the n-th time without an answer, or not at all."""

    def __init__(self, redis: Redis, nth: int, *, is_done: bool) -> None:
        super().__init__(redis)
        self._left, self._is_done = nth, is_done

    async def commit(self, expected, writes):
        self._left -= 1
        if self._left == 0:
            if self._is_done:
                await super().commit(expected, writes)
            raise StoreUnavailableError("no answer")
        return await super().commit(expected, writes)


@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_commit_without_an_answer_is_never_taken_for_permission(store, provider, valkey, redis, nth, is_done):
    """IDEM-14, IDEM-16: of the claim, or of the result."""
    headers = key()
    losing = Losing(valkey.client(), nth, is_done=is_done)
    async with client_of(losing, provider.adapter) as unlucky, client_of(store, provider.adapter) as api:
        failed = await pay(unlucky, headers)
        await end_leases(redis)
        answer = await pay(api, headers)

        assert (failed.status_code, kind(failed)) == (503, "idempotency-unavailable")
        assert answer.status_code == 201
        assert provider.taken() == [1]
    await losing.close()


async def test_a_replay_needs_the_right_that_the_first_attempt_had(api, provider):
    """PIPE-2: Adyen documents that theirs does not."""
    headers = key()
    first = await pay(api, headers)

    refused = await pay(api, headers | {"Scopes": "api"})
    read = await api.get(first.headers["Location"], headers={"Scopes": "api"})

    assert [(answer.status_code, kind(answer), answer.json()["scope"]) for answer in (refused, read)] == [
        (403, "scope-insufficient", "payments")
    ] * 2
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]
    assert (await pay(api, headers)).content == first.content


async def test_a_key_whose_result_is_gone_is_refused_for_a_month(api, provider, redis):
    """IDEM-22 and W13."""
    headers = key()
    await pay(api, headers)
    (result,), (tombstone,) = await redis.keys("*result/*"), await redis.keys("*tombstone/*")
    ttl = await redis.ttl(tombstone)
    await redis.delete(result)

    answers = [await pay(api, headers), await pay(api, headers, 200)]

    assert ttl > TIER.retention_seconds + TOMBSTONE_SECONDS
    assert [(answer.status_code, kind(answer)) for answer in answers] == [(422, "idempotency-key-expired"), (422, "idempotency-key-reused")]
    assert await redis.strlen(tombstone) < 150
    assert provider.taken() == [1]


@pytest.mark.parametrize("make", [Payments, lambda _: Purchases()], ids=["payment", "purchase"])
async def test_a_worker_that_slept_until_the_result_was_gone_does_nothing_again(store, provider, redis, valkey, make):
    """W5 and W13: it had looked the mutation up before another one did it, and wakes up after its retention."""
    headers, resource = key(), make(provider.adapter)
    async with client_of(store, provider.adapter, payments=resource) as api:
        assert (await pay(api, headers)).status_code == 201
    (tombstone,) = await redis.keys("*tombstone/*")
    kept = await redis.get(tombstone)
    await redis.delete(tombstone, *await redis.keys("*result/*"))

    def sleep(point: FaultPoint) -> None:
        if point is FaultPoint.LOOKED_UP:
            with BlockingRedis(port=valkey.port) as client:
                client.set(tombstone, kept)

    async with client_of(store, provider.adapter, reached=sleep, payments=resource) as asleep:
        answer = await pay(asleep, headers)

    assert (answer.status_code, kind(answer)) == (422, "idempotency-key-expired")
    assert await redis.keys("*result/*") == []


async def test_nothing_that_is_stored_of_a_result_can_be_read_without_the_key(api, redis):
    """IDEM-23."""
    first = await pay(api, key(), 31_337)

    names = [name for pattern in ("*result/*", "*tombstone/*") for name in await redis.keys(pattern)]
    dump = b"".join([await redis.get(name) for name in names])
    assert len(names) == 2
    assert not any(word in dump for word in (b"31337", first.json()["id"].encode(), b"EUR", b"payments"))


async def test_a_result_sealed_under_an_unknown_key_is_refused_rather_than_run_again(store, provider):
    headers = key()
    async with client_of(store, provider.adapter) as api, client_of(store, provider.adapter, sealer=Sealer(b"x" * 32)) as stranger:
        await pay(api, headers)

        assert (await pay(stranger, headers)).status_code == 500
        assert provider.taken() == [1]


async def test_an_operators_finding_that_there_was_no_effect_lets_the_retry_begin(store, provider, redis):
    """IDEM-12: without asking a provider that cannot tell."""
    headers = key()
    provider.ledger.faults.append(Fault("fail"))
    async with client_of(store, provider.adapter) as api:
        await pay(api, headers)
        await find_no_effect(store, redis)

        answer = await pay(api, headers)

        assert answer.status_code == 201
        assert provider.taken() == [1]
        assert set(provider.ledger.fencing.values()) == {2}


GARBAGE: list[Callable[[web.Request], web.Response]] = [
    lambda request: web.Response(status=204),
    lambda request: web.json_response({"id": "ch_1", "amount": 7, "currency": "EUR"}, status=201),
    lambda request: web.json_response({"id": 7}, status=201),
    lambda request: web.Response(text="x" * 100_000, status=201),
    lambda request: (
        # A redirection that is followed would find a charge.
        web.json_response({"id": "ch_1", "amount": 100, "currency": "EUR"}, status=201)
        if request.path == "/elsewhere"
        else web.Response(status=302, headers={"Location": "/elsewhere"})
    ),
]


@pytest.mark.parametrize("answer", GARBAGE)
async def test_an_answer_that_says_nothing_is_no_charge_and_no_refusal(store, answer):
    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(request)

    server = web.Server(handler)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    adapter = HttpPaymentProvider(f"http://127.0.0.1:{runner.addresses[0][1]}", timeout_seconds=0.5)
    async with client_of(store, adapter) as api:
        response = await pay(api, key())

        assert (response.status_code, kind(response)) == (503, "payment-outcome-unknown")
    await adapter.close()
    await runner.cleanup()


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_an_answer_that_comes_in_pieces_is_taken_whole(store, is_chunked):
    async def handler(request: web.Request) -> web.StreamResponse:
        body = b'{"id":"ch_1","amount":100,"currency":"EUR"}'
        response = web.StreamResponse(status=201)
        if not is_chunked:
            response.content_length = len(body)
        await response.prepare(request)
        for part in (body[:10], body[10:]):
            await response.write(part)
            await asyncio.sleep(0.02)
        return response

    async with provider_of(handler) as adapter, client_of(store, adapter) as api:
        assert (await pay(api, key())).status_code == 201


@asynccontextmanager
async def provider_of(handler) -> AsyncIterator[HttpPaymentProvider]:
    runner = web.ServerRunner(web.Server(handler))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    adapter = HttpPaymentProvider(f"http://127.0.0.1:{runner.addresses[0][1]}", timeout_seconds=0.5)
    yield adapter
    await adapter.close()
    await runner.cleanup()


async def test_an_effect_keeps_its_id_when_a_later_version_names_its_route_otherwise(store, provider):
    """IDEM-15: a rolling deployment between two attempts, that renames a parameter."""

    class Shop(Payments):
        async def on_post(self, req, resp, **shop):
            await super().on_post(req, resp)

    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    resource = Shop(provider.adapter)
    async with (
        client_of(store, provider.adapter, shops=("/v1/shops/{shop}/payments", resource)) as old,
        client_of(store, provider.adapter, shops=("/v1/shops/{shop_id}/payments", resource)) as new,
    ):
        answers = [await api.post("/v1/shops/1/payments", json={"amount": 100}, headers=headers) for api in (old, new)]

    assert [answer.status_code for answer in answers] == [503, 201]
    assert provider.taken() == [1]


@pytest.mark.parametrize("is_refused", [True, False])
async def test_whatever_a_handler_makes_of_an_unknown_outcome_is_neither_final_nor_told(store, provider, is_refused):
    """IDEM-10, IDEM-14: whoever is told to try another card, or that all is well, asks no more with this key; and nobody knows."""

    class Soft(Payments):
        async def on_post(self, req, resp):
            try:
                await super().on_post(req, resp)
            except ProviderUnavailableError:
                if is_refused:
                    raise falcon.HTTPConflict(description="try another card") from None
                resp.status, resp.media = falcon.HTTP_202, {}

    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    async with client_of(store, provider.adapter, payments=Soft(provider.adapter)) as api:
        answers = [await pay(api, headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [409, 201]
    assert kind(answers[0]) == "idempotency-outcome-unknown"
    assert provider.taken() == [1]


async def test_a_declined_effect_stays_declined_when_the_handler_runs_again(store, provider):
    headers, contested = key(), Contested(provider.adapter, store, changes=1)
    provider.ledger.faults.append(Fault("decline"))
    async with client_of(store, provider.adapter, payments=contested) as api:
        answers = [await pay(api, headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [402, 402]
    assert (contested.runs, provider.taken()) == (2, [])


async def test_an_operator_who_was_wrong_is_no_reason_to_charge_twice(store, provider, redis):
    """IDEM-12: the charge was on its way; the provider is asked once more."""
    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    async with client_of(store, provider.adapter) as api:
        await pay(api, headers)
        await find_no_effect(store, redis)

        assert (await pay(api, headers)).status_code == 201
        assert provider.taken() == [1]


async def test_a_handler_that_asks_for_no_effect_any_more_ends_nobodys_claim(store, provider):
    """A version of the API that refuses what an earlier one had begun."""

    class Later:
        async def on_post(self, req, resp):
            raise falcon.HTTPForbidden

    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    async with client_of(store, provider.adapter) as earlier, client_of(store, provider.adapter, payments=Later()) as later:
        await pay(earlier, headers)
        refused = await pay(later, headers)
        adopted = await pay(earlier, headers)

    assert (refused.status_code, kind(refused), adopted.status_code) == (409, "idempotency-outcome-unknown", 201)
    assert provider.taken() == [1]


async def test_a_provider_that_knows_another_charge_is_not_believed(store, provider):
    headers = key()
    provider.ledger.faults.append(Fault("drop_reply"))
    async with client_of(store, provider.adapter) as api:
        await pay(api, headers)
        (taken,) = provider.ledger.charges.values()
        taken[0]["amount"] = 7

        answer = await pay(api, headers)

    assert (answer.status_code, kind(answer)) == (503, "payment-outcome-unknown")


async def test_a_renewal_that_comes_late_revives_no_lease(store, provider, valkey, redis):
    """It was given up for lost, and reaches the store after the lease was."""
    late: list[tuple[dict[str, int], list[Write]]] = []

    class Slow(RedisStore):
        async def commit(self, expected, writes):
            if [write.key.partition("/")[0] for write in writes if write.value] == ["lease"]:
                late.append((dict(expected), list(writes)))
                raise StoreUnavailableError("late")
            return await super().commit(expected, writes)

    slow, headers = Slow(valkey.client()), key()
    provider.ledger.faults.append(Fault("hold"))
    async with client_of(slow, provider.adapter, lease_seconds=1) as api:
        await pay(api, headers)
        for expected, writes in late:
            assert isinstance(await store.commit(expected, writes), Conflict)

        # Two renewals failed, and the third was tried.
        assert len(late) >= 2
        assert (await pay(api, headers)).status_code == 201
    await slow.close()


async def test_head_needs_the_scope_of_get(api):
    """PIPE-2."""
    first = await pay(api, key())

    statuses = [(await api.head(first.headers["Location"], headers={"Scopes": scopes})).status_code for scopes in ("api", "payments")]

    assert statuses == [403, 200]


def test_a_claim_stands_for_seconds():
    """B5: nobody waits for a crashed worker's longer; and no owner that is only busy loses it (B4)."""
    assert 10 <= LEASE_SECONDS <= 30


def test_a_provider_that_starts_again_refuses_whom_it_refused_before(tmp_path):
    ledger = Ledger(tmp_path / "charges")
    assert not ledger.is_stale("e", 2)
    ledger.take("e", {"amount": 1, "currency": "EUR"})

    again = Ledger(tmp_path / "charges")
    again.load()

    assert (again.is_stale("e", 1), len(again.charges["e"])) == (True, 1)
