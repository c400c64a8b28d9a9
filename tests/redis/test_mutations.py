"""Paid once: the mutation middleware, the reference resources and a real Valkey together."""

import asyncio
import gzip
import uuid
from collections.abc import AsyncIterator

import falcon.asgi
import httpx
import pytest
from tests.conftest import DURABLE

from tidegate import problems
from tidegate.body import BodyMiddleware
from tidegate.contract.tier import Tier
from tidegate.idempotency.journal import Journal
from tidegate.idempotency.middleware import ReplayMiddleware
from tidegate.idempotency.sealing import Sealer
from tidegate.idempotency.transaction import TransactionMiddleware
from tidegate.identity.principal import Principal
from tidegate.resources.credits import Credits, PurchaseEntry, Purchases
from tidegate.resources.errors import RecordNotFoundError
from tidegate.resources.records import Records
from tidegate.resources.tiers import Tiers
from tidegate.routing import Router
from tidegate.store.base import Write
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.redis import RedisStore
from tidegate.telemetry import Draining, TelemetryMiddleware

TIER = Tier.from_spec("free", {"windows": [{"name": "second", "limit": 10, "period": "1s"}]})
PURCHASES = "/v1/credits/purchases"
RECORD = "/v1/records/letter"


class FakeIdentity:
    """Believes the header `Caller: tenant/subject`."""

    async def process_resource(self, req, resp, resource, params):
        tenant, subject = (req.get_header("Caller") or "acme/ann").split("/")
        req.context.principal = Principal("iss", tenant, "web", subject, "free", frozenset(), 0)
        req.context.tier, req.context.tids = TIER, ("t" * 22,)


def make_app(store, **routes) -> falcon.asgi.App:
    router, journal = Router(), Journal(store, Sealer(b"r" * 32))
    app = falcon.asgi.App(
        router=router,
        middleware=[
            TelemetryMiddleware("here", Draining()),
            FakeIdentity(),
            BodyMiddleware(65_536),
            ReplayMiddleware(
                journal, b"s" * 32, router.mutations, bare_keys=routes.get("bare_keys", False), measures=routes.get("measures")
            ),
            TransactionMiddleware(journal, problems.render, measures=routes.get("measures")),
        ],
    )
    problems.install(app)
    app.add_route("/v1/credits", Credits(store))
    app.add_route(PURCHASES, routes.get("purchases", Purchases()))
    app.add_route(PURCHASES + "/{purchase_id}", PurchaseEntry(store))
    app.add_route("/v1/records/{record_id}", Records(store))
    app.add_route("/v1/tiers/{name}", Tiers())
    if "talk" in routes:
        app.add_route("/v1/talk", routes["talk"])
    if "own" in routes:
        app.add_route("/v1/own", routes["own"])
        app.add_route("/v1/own/item", routes["own"], suffix="item")
    return app


def client_of(store, **routes) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(make_app(store, **routes)), base_url="http://api.test")


@pytest.fixture
async def api(store) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(store) as client:
        yield client


def key(text: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": f'"{text or uuid.uuid4()}"'}


async def purchase(api: httpx.AsyncClient, headers: dict[str, str], amount: object = 100) -> httpx.Response:
    return await api.post(PURCHASES, json={"amount": amount}, headers=headers)


async def ledger(api: httpx.AsyncClient, caller: str = "acme/ann") -> list[int]:
    """The amounts of all entries, after a check that they sum to the balance."""
    headers = {"Caller": caller}
    account = (await api.get("/v1/credits", headers=headers)).json()
    entries = [await api.get(f"{PURCHASES}/{number}", headers=headers) for number in range(1, account["entries"] + 1)]
    amounts = [entry.json()["amount"] for entry in entries]
    assert sum(amounts) == account["balance"]
    assert (await api.get(f"{PURCHASES}/{len(amounts) + 1}", headers=headers)).status_code == 404
    return amounts


def kind(response: httpx.Response) -> str:
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.json()["type"].rsplit("/", 1)[1]


async def test_a_purchase_is_answered_with_its_entry_and_the_new_balance(api):
    response = await purchase(api, key(), 250)

    assert response.status_code == 201
    assert response.json() == {"id": "1", "amount": 250, "balance": 250}
    assert response.headers["Location"] == PURCHASES + "/1"
    assert (await api.get(response.headers["Location"])).json() == response.json()
    assert (await api.get("/v1/credits")).json() == {"balance": 250, "currency": "EUR", "entries": 1}
    assert "Idempotent-Replayed" not in response.headers


async def test_a_retry_gets_the_first_answer_byte_for_byte_and_a_marker(api):
    """IDEM-8."""
    headers = key()
    first = await purchase(api, headers)
    await purchase(api, key())

    again = await purchase(api, headers)

    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert {name: again.headers[name] for name in ("content-type", "location")} == {
        name: first.headers[name] for name in ("content-type", "location")
    }
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert await ledger(api) == [100, 100]


async def test_fifty_identical_purchases_at_once_make_one_entry(store):
    """IDEM-9, over two applications that share the store."""
    headers = key()
    async with client_of(store) as here, client_of(store) as there:
        answers = await asyncio.gather(*(purchase(api, headers) for api in [here, there] * 25))

        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
        assert await ledger(here) == [100]


async def test_twenty_different_purchases_at_once_all_land(api):
    answers = await asyncio.gather(*(purchase(api, key(), amount) for amount in range(1, 21)))

    assert {answer.status_code for answer in answers} == {201}
    assert sorted(await ledger(api)) == list(range(1, 21))
    assert sorted(int(answer.json()["id"]) for answer in answers) == list(range(1, 21))


async def test_a_key_that_is_reused_for_another_request_is_refused(api):
    """IDEM-6, B6; IDEM-5: the content type belongs to the request, even one that means the same."""
    headers = key()
    first = await purchase(api, headers, 100)

    answers = [
        await purchase(api, headers, 200),
        await api.post(PURCHASES, content=first.request.content, headers=headers | {"Content-Type": "application/json; charset=utf-8"}),
        await api.post(PURCHASES + "?x=1", json={"amount": 100}, headers=headers),
        await api.put(RECORD, json={"amount": 100}, headers=headers),
        await api.delete(RECORD, headers=headers),
    ]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(422, "idempotency-key-reused")] * 5
    assert await ledger(api) == [100]


async def test_different_requests_racing_with_one_key_have_one_winner(api):
    headers = key()

    answers = await asyncio.gather(*(purchase(api, headers, amount) for amount in range(1, 11)))

    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 9
    assert len(await ledger(api)) == 1


@pytest.mark.parametrize(
    "field", ["", '""', "0197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5", "a197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5", '"short"', '"' + "x" * 256 + '"']
)
async def test_a_malformed_key_is_refused(api, field):
    """IDEM-2."""
    response = await purchase(api, {"Idempotency-Key": field})

    assert (response.status_code, kind(response)) == (400, "idempotency-key-invalid")


async def test_a_missing_key_is_refused_on_every_mutating_method(api):
    """IDEM-1."""
    answers = [await purchase(api, {}), await api.put(RECORD, json={}), await api.delete(RECORD)]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(400, "idempotency-key-missing")] * 3
    assert 'rel="describedby"' in answers[0].headers["Link"]


@pytest.mark.parametrize("lines", [(f'"{"k" * 20}"', f'"{"k" * 20}"'), ('"0197a5c0-6f1e', '7cc3-98c8-d1f5a2b3c4d5"')])
async def test_two_key_lines_are_refused_even_if_they_join_to_a_sound_string(api, lines):
    """IDEM-3."""
    response = await api.post(PURCHASES, json={"amount": 1}, headers=[("Idempotency-Key", line) for line in lines])

    assert (response.status_code, kind(response)) == (400, "idempotency-key-invalid")


async def test_a_read_ignores_the_key(api):
    """IDEM-24."""
    assert (await api.get("/v1/credits", headers={"Idempotency-Key": "x"})).status_code == 200


async def test_a_method_that_a_resource_lacks_is_refused_as_such(api):
    response = await api.post("/v1/credits", headers=key())

    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]


async def test_two_principals_of_a_tenant_may_use_the_same_key(api):
    """IDEM-4, B6."""
    headers = key()

    answers = [await purchase(api, {**headers, "Caller": caller}) for caller in ("acme/ann", "acme/bob", "globex/ann")]

    assert [answer.json() for answer in answers] == [
        {"id": "1", "amount": 100, "balance": 100},
        {"id": "2", "amount": 100, "balance": 200},
        {"id": "1", "amount": 100, "balance": 100},
    ]
    assert not any("Idempotent-Replayed" in answer.headers for answer in answers)


async def test_a_corrected_retry_succeeds_after_every_rejection(api):
    """PIPE-5, B8: what was refused before the handler decided is not stored."""
    headers = key()
    as_json = {**headers, "Content-Type": "application/json"}
    rejections = [
        await api.post(PURCHASES, content=b"{", headers=as_json),
        await api.post(PURCHASES, content=b"a=1", headers=headers),
        await api.post(PURCHASES, content=b'{"amount": 0, "x": 1}', headers=as_json),
        await api.post(PURCHASES, content=b"x" * 70_000, headers=as_json),
    ]

    response = await purchase(api, headers)

    assert [rejection.status_code for rejection in rejections] == [400, 415, 422, 413]
    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers
    assert (await purchase(api, headers)).headers["Idempotent-Replayed"] == "true"


async def test_wrong_members_are_all_named(api):
    response = await api.post(PURCHASES, json={"amount": 0, "extra": 1}, headers=key())

    assert [violation["path"] for violation in response.json()["violations"]] == ["$.extra", "$.amount"]


class FailsOnce(Purchases):
    """Fails after it staged its writes, the first time."""

    def __init__(self, error: Exception) -> None:
        self._errors = [error]

    async def on_post(self, req, resp):
        await super().on_post(req, resp)
        if self._errors:
            raise self._errors.pop()


INDETERMINATE = {
    500: RuntimeError("bug"),
    503: falcon.HTTPServiceUnavailable(),
    408: falcon.HTTPError(408),
    425: falcon.HTTPError(425),
    429: falcon.HTTPTooManyRequests(),
}


@pytest.mark.parametrize(("status", "error"), INDETERMINATE.items())
async def test_an_indeterminate_failure_keeps_nothing_and_a_retry_runs_again(store, status, error):
    """IDEM-10 and B7."""
    headers = key()
    async with client_of(store, purchases=FailsOnce(error)) as api:
        failed = await purchase(api, headers)
        assert await ledger(api) == []
        response = await purchase(api, headers)

        assert failed.status_code == status
        assert (response.status_code, "Idempotent-Replayed" in response.headers) == (201, False)
        assert await ledger(api) == [100]


class Unwilling(Purchases):
    """Sets a status instead of raising it."""

    def __init__(self, status: int) -> None:
        self._status = status

    async def on_post(self, req, resp):
        await super().on_post(req, resp)
        resp.status = self._status
        resp.set_header("Retry-After", "7")


@pytest.mark.parametrize("status", [502, 401, 408, 412, 425, 428, 429])
async def test_a_handlers_own_transient_status_is_answered_and_not_stored(store, status):
    """IDEM-10: the writes go with it."""
    async with client_of(store, purchases=Unwilling(status)) as api:
        answers = [await purchase(api, headers) for headers in [key()] * 2]

        assert [(answer.status_code, answer.headers["Retry-After"]) for answer in answers] == [(status, "7")] * 2
        assert not any("Idempotent-Replayed" in answer.headers for answer in answers)
        assert await ledger(api) == []


class Refusing(Purchases):
    """Stages its writes and then refuses for good."""

    async def on_post(self, req, resp):
        await super().on_post(req, resp)
        raise RecordNotFoundError("no such account")


async def test_a_final_refusal_drops_the_writes_that_were_staged_before_it(store):
    async with client_of(store, purchases=Refusing()) as api:
        answers = [await purchase(api, headers) for headers in [key()] * 2]

        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[1].headers["Idempotent-Replayed"] == "true"
        assert await ledger(api) == []


async def test_a_mutation_whose_data_keeps_changing_is_given_up_with_nothing_done(store):
    class Contested(Purchases):
        async def on_post(self, req, resp):
            await super().on_post(req, resp)
            await store.commit({}, [Write("contested", b"1")])
            await req.context.unit_of_work.read("contested")
            await store.commit({}, [Write("contested", b"2")])

    async with client_of(store, purchases=Contested()) as api:
        response = await purchase(api, key())

        assert (response.status_code, kind(response), response.headers["Retry-After"]) == (409, "mutation-conflict", "1")
        assert await ledger(api) == []


async def test_a_store_killed_before_the_commit_keeps_nothing(valkeys):
    """IDEM-16: 503, no effect, and the retry pays once."""
    server = valkeys(*DURABLE)
    store = RedisStore(server.client(timeout=0.5))

    class Killer(Purchases):
        async def on_post(self, req, resp):
            await super().on_post(req, resp)
            server.kill()

    headers = key()
    async with client_of(store, purchases=Killer()) as killing, client_of(store) as api:
        failed = await purchase(killing, headers)
        unreachable = await purchase(api, headers)
        server.start()
        entries_after_crash = await ledger(api)
        response = await purchase(api, headers)

        assert [(answer.status_code, kind(answer)) for answer in (failed, unreachable)] == [(503, "idempotency-unavailable")] * 2
        assert failed.headers["Retry-After"] == "1"
        assert entries_after_crash == []
        assert (response.status_code, "Idempotent-Replayed" in response.headers) == (201, False)
        assert await ledger(api) == [100]
    await store.close()


async def test_a_result_survives_a_killed_store(valkeys, eventually):
    """IDEM-14: what was answered is durable."""
    server = valkeys(*DURABLE)
    store = RedisStore(server.client(timeout=0.5))
    headers = key()
    async with client_of(store) as api:
        first = await purchase(api, headers)
        server.kill()
        server.start()

        async def retry() -> httpx.Response | None:
            # A connection from before the crash may still fail once, as it does for a client that is told to retry.
            answer = await purchase(api, headers)
            return None if answer.status_code == 503 else answer

        again = await eventually(retry)

        assert again.content == first.content
        assert again.headers["Idempotent-Replayed"] == "true"
        assert await ledger(api) == [100]
    await store.close()


class LosesAnswers(RedisStore):
    """Commits, but the answer never arrives."""

    async def commit(self, expected, writes):
        await super().commit(expected, writes)
        raise StoreUnavailableError("the answer was lost")


async def test_a_commit_whose_answer_was_lost_is_found_by_the_retry(store, valkey):
    """W11: the outcome is unknown to us, and known to the store."""
    losing = LosesAnswers(valkey.client())
    headers = key()
    async with client_of(losing) as unlucky, client_of(store) as api:
        failed = await purchase(unlucky, headers)
        again = await purchase(api, headers)

        assert failed.status_code == 503
        assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
        assert await ledger(api) == [100]
    await losing.close()


async def test_a_result_is_kept_for_the_tiers_retention_and_a_margin(api, redis):
    """IDEM-17; neither the raw key nor the tenant is at rest."""
    await purchase(api, key("a-very-secret-key"))

    names = await redis.keys("*")
    results = [name for name in names if b"result/" in name]
    assert [TIER.retention_seconds < await redis.ttl(name) <= TIER.retention_seconds + 3_600 for name in results] == [True]
    dump = b"".join(names) + b"".join([await redis.get(name) for name in names])
    assert not any(word in dump for word in (b"a-very-secret-key", b"acme"))


async def test_a_record_is_put_read_replaced_and_deleted(api):
    created = await api.put(RECORD, content=b'{"a": 1.0}', headers={**key(), "Content-Type": "application/json"})
    read = await api.get(RECORD)
    replaced = await api.put(RECORD, json={"a": 2}, headers=key())
    deleted = await api.delete(RECORD, headers=key())

    assert [created.status_code, replaced.status_code, deleted.status_code] == [201, 200, 204]
    assert read.content == b'{"a": 1.0}'
    assert read.headers["ETag"] == created.headers["ETag"] != replaced.headers["ETag"]
    assert (deleted.content, "Content-Type" in deleted.headers) == (b"", False)
    assert (await api.get(RECORD)).status_code == 404


async def test_a_change_is_held_to_the_record_that_the_client_has_seen(api):
    """CACHE-4: 412 before any effect, and not stored: the same key may be used with the right tag."""
    created = await api.put(RECORD, json={"a": 1}, headers=key())
    headers, deletion = key(), key()
    stale = {"If-Match": '"0000"'}

    refused = await api.put(RECORD, json={"a": 2}, headers=headers | stale)
    unchanged = (await api.get(RECORD)).json()
    changed = await api.put(RECORD, json={"a": 2}, headers=headers | {"If-Match": f'"0000", {created.headers["ETag"]}'})
    not_deleted = await api.delete(RECORD, headers=deletion | {"If-Match": created.headers["ETag"]})
    deleted = await api.delete(RECORD, headers=deletion | {"If-Match": "*"})
    gone = await api.put(RECORD, json={"a": 3}, headers=key() | {"If-Match": "*"})

    assert (refused.status_code, kind(refused), unchanged) == (412, "precondition-failed", {"a": 1})
    assert (changed.status_code, changed.headers.get("Idempotent-Replayed")) == (200, None)
    assert [answer.status_code for answer in (not_deleted, deleted, gone)] == [412, 204, 412]


@pytest.mark.parametrize("field", ['W/"{}"', "{}x", ",", '"a", W/"{}"'])
async def test_what_names_the_record_weakly_or_not_at_all_holds_a_change_back(api, field):
    """CACHE-4, RFC 9110 13.1.1: strong comparison."""
    created = await api.put(RECORD, json={"a": 1}, headers=key())
    tag = created.headers["ETag"].strip('"')

    assert (await api.delete(RECORD, headers=key() | {"If-Match": field.format(tag)})).status_code == 412


async def test_a_retry_of_a_change_that_was_made_is_replayed_although_the_tag_has_moved(api):
    """CACHE-4: the precondition is of the first attempt."""
    created = await api.put(RECORD, json={"a": 1}, headers=key())
    headers = key() | {"If-Match": created.headers["ETag"]}
    changed = await api.put(RECORD, json={"a": 2}, headers=headers)

    again = await api.put(RECORD, json={"a": 2}, headers=headers)

    assert (again.status_code, again.content, again.headers["Idempotent-Replayed"]) == (200, changed.content, "true")


async def test_a_business_refusal_is_stored_like_a_success(api):
    """IDEM-10: the delete found nothing, and says so for ever."""
    headers = key()
    first = await api.delete(RECORD, headers=headers)
    await api.put(RECORD, json={}, headers=key())

    again = await api.delete(RECORD, headers=headers)

    assert (first.status_code, again.status_code) == (404, 404)
    assert (again.content, again.headers["Content-Type"]) == (first.content, "application/problem+json")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (await api.get(RECORD)).status_code == 200


class Own:
    """What a user of the platform may write, in Falcon's own idioms."""

    async def on_post(self, req, resp):
        req.context.unit_of_work.write("own", b"collection")

    async def on_post_item(self, req, resp):
        req.context.unit_of_work.write("own", b"item")
        resp.set_header("Own", "1")

    async def on_put(self, req, resp):
        req.context.unit_of_work.write("own", b"put")
        raise falcon.HTTPStatus(falcon.HTTP_202, text="taken")

    async def on_delete(self, req, resp):
        req.context.unit_of_work.write("own", b"deleted")
        raise falcon.HTTPConflict(title="no", description="It is locked.")


async def value(store) -> bytes | None:
    found = (await store.read(["own"])).get("own")
    return found.value if found else None


async def test_a_responder_with_a_suffix_is_a_mutation_like_any_other(store):
    """IDEM-1: it needs a key, and it is the one that runs."""
    headers = key()
    async with client_of(store, own=Own()) as api:
        without = await api.post("/v1/own/item")
        first = await api.post("/v1/own/item", headers=headers)
        again = await api.post("/v1/own/item", headers=headers)

    assert kind(without) == "idempotency-key-missing"
    assert (first.status_code, first.headers["Own"], await value(store)) == (200, "1", b"item")
    assert (again.headers["Idempotent-Replayed"], again.headers.get("Own")) == ("true", None)


async def test_a_raised_status_is_an_answer_and_is_committed(store):
    headers = key()
    async with client_of(store, own=Own()) as api:
        answers = [await api.put("/v1/own", headers=headers) for _ in range(2)]

    assert [(answer.status_code, answer.text) for answer in answers] == [(202, "taken")] * 2
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert await value(store) == b"put"


async def test_a_raised_refusal_is_a_result_without_writes(store):
    """IDEM-10: Falcon's own errors too."""
    headers = key()
    async with client_of(store, own=Own()) as api:
        answers = [await api.delete("/v1/own", headers=headers) for _ in range(2)]

    assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [(409, "It is locked.")] * 2
    assert answers[0].content == answers[1].content
    assert await value(store) is None


class Streaming:
    """Answers with what cannot be stored."""

    async def on_post(self, req, resp):
        req.context.unit_of_work.write("own", b"streamed")
        resp.stream = self._events()

    async def on_put(self, req, resp):
        req.context.unit_of_work.write("own", b"sent")
        resp.sse = self._events()

    async def on_post_item(self, req, resp): ...

    async def _events(self):
        yield b"part"


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_mutation_that_streams_its_answer_is_our_fault_and_keeps_nothing(store, method):
    """IDEM-21, B9: its retry could not get the same answer."""
    async with client_of(store, own=Streaming()) as api:
        answers = [await api.request(method, "/v1/own", headers=headers) for headers in [key()] * 2]

    assert [(answer.status_code, kind(answer)) for answer in answers] == [(500, "internal-error")] * 2
    assert not any("Idempotent-Replayed" in answer.headers for answer in answers)
    assert await value(store) is None


async def test_an_answer_above_the_maximum_is_our_fault_and_keeps_nothing(store):
    """IDEM-21: it is not cut short."""

    class Talkative:
        async def on_post(self, req, resp):
            size = req.get_param_as_int("size")
            req.context.unit_of_work.write("own", b"said %d" % size)
            resp.text = "x" * size

    async with client_of(store, talk=Talkative()) as api:
        fits, is_too_large = [await api.post(f"/v1/talk?size={size}", headers=key()) for size in (65_536, 65_537)]

        assert (fits.status_code, len(fits.content), is_too_large.status_code) == (200, 65_536, 500)
        assert await value(store) == b"said 65536"


class CountingStore(RedisStore):
    """Notes every call."""

    def __init__(self, redis) -> None:
        super().__init__(redis)
        self.calls: list[str] = []

    async def read(self, keys, *, or_stale=False):
        self.calls.append("read")
        return await super().read(keys, or_stale=or_stale)

    async def commit(self, expected, writes):
        self.calls.append("commit")
        return await super().commit(expected, writes)


async def test_a_mutation_costs_one_read_and_one_commit_and_a_replay_one_read(valkey, redis):
    """What a handler reads comes with the look-up."""
    store, headers = CountingStore(valkey.client()), key()
    async with client_of(store) as api:
        for _ in range(2):
            await purchase(api, headers)
        await api.put(RECORD, json={}, headers=key())
        await api.delete(RECORD, headers=key())

    assert store.calls == ["read", "commit", "read", "read", "commit", "read", "commit"]
    await store.close()


async def test_what_was_read_with_the_look_up_and_has_changed_since_is_read_again(store):
    """And what was prefetched in vain guards nothing."""

    class Prefetching:
        seen: list[bytes | None] = []

        def prefetch(self, req):
            return ("own", "vain")

        async def on_post(self, req, resp):
            self.seen.append(await req.context.unit_of_work.read("own"))
            if len(self.seen) == 1:
                await store.commit({}, [Write("own", b"other"), Write("vain", b"other")])
            elif len(self.seen) == 2:
                await store.commit({}, [Write("vain", b"another")])
            req.context.unit_of_work.write("own", b"mine")

    async with client_of(store, talk=Prefetching()) as api:
        response = await api.post("/v1/talk", headers=key())

    assert (response.status_code, Prefetching.seen, await value(store)) == (200, [None, b"other"], b"mine")


async def test_a_replay_describes_its_body_as_the_first_answer_did(store):
    """B10: or it is gzip that says it is JSON."""

    class Zipped:
        async def on_post(self, req, resp):
            resp.data, resp.content_type = gzip.compress(b'{"a": 1}'), "application/json"
            resp.set_headers({"Content-Encoding": "gzip", "Content-Disposition": "attachment", "Content-Language": "en"})

    headers = key()
    async with client_of(store, talk=Zipped()) as api:
        first, again = [await api.post("/v1/talk", headers=headers) for _ in range(2)]

    assert first.json() == again.json() == {"a": 1}
    described = ("content-encoding", "content-disposition", "content-language", "content-type")
    assert [first.headers[field] for field in described] == [again.headers[field] for field in described]


async def test_a_cookie_is_our_fault_and_keeps_nothing(store):
    """No session, and a replay would not have it."""

    class Baking:
        async def on_post(self, req, resp):
            req.context.unit_of_work.write("own", b"baked")
            resp.set_cookie("a", "b")

    async with client_of(store, talk=Baking()) as api:
        response = await api.post("/v1/talk", headers=key())

    assert (response.status_code, await value(store)) == (500, None)


@pytest.mark.parametrize(("bare", "status"), [(True, 201), (False, 400)])
async def test_keys_without_quotes_are_taken_where_that_is_wanted(store, bare, status):
    """IDEM-2."""
    async with client_of(store, bare_keys=bare) as api:
        response = await purchase(api, {"Idempotency-Key": "0197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5"})

    assert response.status_code == status


async def test_no_answer_of_a_mutation_may_be_kept_by_a_cache(api):
    headers = key()
    answers = [await purchase(api, headers), await purchase(api, headers), await api.delete(RECORD, headers=key())]

    assert [answer.headers["Cache-Control"] for answer in answers] == ["no-store"] * 3


async def test_a_body_of_wrong_members_buys_no_huge_answer(api):
    body = {f"m{number}": 1 for number in range(5_000)}

    answer = await api.post(PURCHASES, json=body, headers=key())

    assert answer.status_code == 422
    assert len(answer.json()["violations"]) == 32
    assert len(answer.content) < 8_000
    assert "5001 found" in answer.json()["detail"]


async def test_a_tenants_record_does_not_exist_for_another(api):
    """OWASP API1, by every method and by a replayed key."""
    headers = key()
    await api.put(RECORD, json={"secret": 1}, headers=headers)
    stranger = {"Caller": "globex/ann"}

    answers = [await api.get(RECORD, headers=stranger), await api.delete(RECORD, headers={**stranger, **key()})]
    own = await api.put(RECORD, json={"secret": 1}, headers={**stranger, **headers})

    assert [answer.status_code for answer in answers] == [404, 404]
    assert (own.status_code, "Idempotent-Replayed" in own.headers) == (201, False)
    assert (await api.get(RECORD)).status_code == 200


@pytest.mark.parametrize("name", ["a.b", "a%2Fb", "x" * 65, "%C3%A9", "a%0A"])
async def test_an_id_outside_the_pattern_does_not_exist(api, name):
    answers = [await api.get(f"/v1/records/{name}"), await api.put(f"/v1/records/{name}", json={}, headers=key())]

    assert [answer.status_code for answer in answers] == [404, 404]


async def test_a_record_must_be_an_object(api):
    assert (await api.put(RECORD, json=[1], headers=key())).status_code == 422


async def test_a_caller_sees_their_own_tier_alone(api):
    own, other = await api.get("/v1/tiers/free"), await api.get("/v1/tiers/enterprise")

    assert own.json() == {"name": "free", "spec": TIER.to_spec()}
    assert other.status_code == 404
