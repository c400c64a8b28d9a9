"""Cached routes of one worker in process, with lanes on real Valkey servers: what is kept, served, refreshed and forgotten."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import falcon
import pytest
from redis.asyncio import Redis
from tests.conftest import Valkey
from tests.redis.cache_stage import PATH, SHARED, TTL_SECONDS, Api, Documents, cache_status, document, publish, serving

from tidegate.cache.lane import Lane
from tidegate.cache.policy import CachePolicy
from tidegate.contract import keys


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("lane")) as server:
        yield server


@pytest.fixture
async def shared(lane: Valkey) -> Valkey:
    """A lane of 32 MB, empty, whatever the test before made of it."""
    lane.flush()
    async with lane.client() as client:
        await client.config_set("maxmemory", "32mb", "maxmemory-policy", "allkeys-lfu")
    return lane


@pytest.fixture
async def api(redis: Redis, valkey: Any, durable: Any, shared: Any, issuer: Any) -> AsyncIterator[Api]:
    await publish(redis, document("pro", SHARED), document("free", {"lane": "None"}))
    policy = CachePolicy(vary=("Accept-Language",), scopes=frozenset({"payments"}), stale_if_error_seconds=600)
    async with serving(issuer, valkey.url, durable.url, Documents(policy), TIDEGATE_CACHE_URL=shared.url) as opened:
        yield opened


@pytest.fixture
def age_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the worker, by which what is kept gets older."""
    true_time, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true_time() + ahead[0])

    def move(seconds: float) -> None:
        ahead[0] += seconds

    return move


async def statuses(api: Api, *requests: dict[str, Any]) -> list[str]:
    return [(await api.get(**request)).headers["Cache-Status"] for request in requests]


# --- hits and misses ---------------------------------------------------------------------------------------------------------


async def test_a_second_request_is_a_hit_with_an_age_and_the_same_bytes(api: Api) -> None:
    """CACHE-3, CACHE-5."""
    first, second = await api.get(), await api.get()

    assert first.headers["Cache-Status"] == "Shared; fwd=uri-miss; fwd-status=200; stored"
    lane, parameters = cache_status(second)
    assert (lane, parameters["hit"]) == ("Shared", True)
    assert 0.9 * TTL_SECONDS - 2 <= parameters["ttl"] <= TTL_SECONDS
    assert (second.status_code, second.content, second.headers["Content-Type"]) == (200, first.content, "text/plain")
    assert second.headers["Age"] == "0"
    assert "Age" not in first.headers
    assert api.documents.calls == 1


async def test_the_fields_of_limits_are_fresh_on_every_hit_and_304(api: Api) -> None:
    """RL-9: an answer from a lane is charged like any other."""
    answers = [await api.get() for _ in range(3)]
    answers.append(await api.get(If_None_Match="*"))

    remaining = [int(answer.headers["RateLimit"].split("r=")[1].split(";")[0]) for answer in answers]
    assert remaining == list(range(remaining[0], remaining[0] - 4, -1))
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


async def test_what_alters_the_answer_is_part_of_the_key_and_the_rest_is_not(api: Api) -> None:
    """CACHE-2: tenant, scopes that matter, query and Vary; another client or an irrelevant scope shares."""
    tokens = {"tenant": "other"}, {"scope": "api payments"}, {"scope": "api profile"}, {"client": "second"}
    first = await api.get()
    requests = [{"token": api.token(**token)} for token in tokens]
    requests += [{"Accept_Language": "de"}, {"path": f"{PATH}?page=2"}, {"path": f"http://api/{PATH}"}, {"Host": "other"}]

    said = [status.split(";")[1].strip() for status in await statuses(api, *requests)]

    assert first.headers["Vary"] == "Accept-Language"
    assert said == ["fwd=uri-miss", "fwd=vary-miss", "hit", "hit", "fwd=vary-miss", "fwd=vary-miss", "hit", "fwd=vary-miss"]


async def test_a_query_counts_as_it_was_sent(api: Api) -> None:
    """Order and repetition may mean something to a handler: nothing is taken for the same that could be answered otherwise."""
    queries = ["?a=1&b=2", "?b=2&a=1", "?a=1&a=1&b=2", "?a=%31&b=2"]

    answers = [await api.get(PATH + query) for query in [*queries, *queries]]

    assert ["hit" in cache_status(answer)[1] for answer in answers] == [False] * 4 + [True] * 4
    assert [answer.text for answer in answers[:4]] == [answer.text for answer in answers[4:]]
    assert len({answer.text for answer in answers}) == 4


async def test_head_is_answered_from_what_get_kept(api: Api) -> None:
    got, headed = await api.get(), await api.get(method="HEAD")

    assert headed.headers["Cache-Status"].startswith("Shared; hit")
    assert (headed.content, headed.headers["Content-Length"], headed.headers["ETag"]) == (b"", str(len(got.content)), got.headers["ETag"])


async def test_what_a_handler_leaves_out_for_head_is_not_left_out_for_get(api: Api) -> None:
    """A miss is answered by the handler as if it were GET, for it is GET's answer that is kept."""
    headed, got = await api.get(method="HEAD"), await api.get()

    assert headed.headers["Cache-Status"] == "Shared; fwd=uri-miss; fwd-status=200; stored"
    assert (got.text, "hit" in cache_status(got)[1]) == ("acme|api|a|||1", True)
    assert (headed.headers["ETag"], headed.headers["Content-Length"]) == (got.headers["ETag"], str(len(got.content)))


async def test_a_tier_without_a_lane_is_served_by_the_handler_and_told_so(api: Api) -> None:
    answers = [await api.get(token=api.token("free")) for _ in range(2)]

    assert [answer.headers["Cache-Status"] for answer in answers] == ["None; fwd=bypass; fwd-status=200; detail=no-lane"] * 2
    assert len({answer.headers["ETag"] for answer in answers}) == 1
    assert api.documents.calls == 2


async def test_routes_that_do_not_opt_in_are_not_kept(api: Api) -> None:
    answer = await api.get("/v1/credits")

    assert "Cache-Status" not in answer.headers
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert answer.headers["CDN-Cache-Control"] == "no-store"


async def test_a_hit_is_one_command_of_the_lane(api: Api, shared: Any) -> None:
    await api.get()
    async with shared.client() as client:
        await client.config_resetstat()
        for _ in range(10):
            await api.get()
        commands = await client.info("commandstats")

    assert {name: row["calls"] for name, row in commands.items() if "info" not in name and "config" not in name} == {"cmdstat_hget": 10}


# --- what is kept ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "detail"),
    [
        ({"headers": {"Cache-Control": "no-store"}}, "no-store"),
        ({"headers": {"Cache-Control": "private, max-age=60"}}, "no-store"),
        ({"headers": {"Cache-Control": "no-cache"}}, "no-store"),
        ({"headers": {"Cache-Control": "max-age=0"}}, "expired"),
        ({"headers": {"Cache-Control": "max-age=6o"}}, "expired"),
        ({"headers": {"Cache-Control": "max-age=60, max-age=-1"}}, "expired"),
        ({"headers": {"Expires": "yesterday"}}, "expired"),
        ({"headers": {"Vary": "*"}}, "vary"),
        ({"headers": {"Vary": "Accept-Language, Origin"}}, "vary"),
        ({"headers": {"Age": "soon"}}, "age"),
        ({"headers": {"Age": "3, 100"}}, "expired"),
        ({"headers": {"Age": "3", "Date": "Thu, 01 Jan 2026 00:00:00 GMT"}}, "expired"),
        ({"cookie": "b"}, "set-cookie"),
        ({"status": 203}, "status"),
        ({"status": 206}, "status"),
        ({"status": 503}, "failed"),
        ({"size": 10_000_000}, "too-large"),
    ],
)
async def test_what_must_not_be_kept_is_answered_whole_and_says_why(api: Api, given: dict[str, Any], detail: str) -> None:
    """CACHE-1, CACHE-10, and what breaks rules of HTTP."""
    for name, value in given.items():
        setattr(api.documents, name, value)

    answers = [await api.get() for _ in range(2)]

    status = given.get("status", 200)
    assert {answer.headers["Cache-Status"] for answer in answers} == {f"Shared; fwd=uri-miss; fwd-status={status}; detail={detail}"}
    assert {(answer.status_code, len(answer.content)) for answer in answers} == {(status, len("acme|api|a|||1") + given.get("size", 0))}
    assert api.documents.calls == 2


@pytest.mark.parametrize(
    "field", [",;=,,", 'public="', "max-age", "=60", "max-age=\u00e9", "s-maxage=99999999999999999999", 'foo="a, no-store"']
)
async def test_garbage_in_cache_control_breaks_nothing(api: Api, field: str) -> None:
    api.documents.headers = {"Cache-Control": field}

    answers = [await api.get(), await api.get(Cache_Control=field.encode("latin-1").decode("ascii", "ignore"))]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert all(cache_status(answer)[0] == "Shared" for answer in answers)


async def test_what_the_handler_changes_afterwards_is_not_what_is_kept(api: Api, eventually: Any) -> None:
    """Nor what those get who waited for the same answer."""
    api.documents.body, api.documents.gate = bytearray(b"as it was"), asyncio.Event()
    tasks = [asyncio.create_task(api.get()) for _ in range(5)]
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate.set()
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    api.documents.body[:] = b"as it IS!"

    answers = [*(await asyncio.gather(*tasks)), await api.get()]

    assert api.documents.calls == 1
    assert {answer.text for answer in answers if "stored" not in cache_status(answer)[1]} == {"as it was"}


@pytest.mark.parametrize("asked", [{"Range": "bytes=0-3"}, {"If_Modified_Since": "Thu, 01 Jan 2026 00:00:00 GMT"}])
async def test_a_handler_is_asked_for_the_whole_answer_that_others_get_too(api: Api, asked: dict[str, str]) -> None:
    """And a client that asked for less gets it as well, which HTTP allows."""
    plain = await api.get(token=api.token("free"), **asked)

    first, second = await api.get(**asked), await api.get()

    assert plain.status_code != 200
    assert first.headers["Cache-Status"] == "Shared; fwd=uri-miss; fwd-status=200; stored"
    assert ("hit" in cache_status(second)[1], second.text) == (True, "acme|api|a|||1")
    assert (first.status_code, first.text) == (200, second.text)


async def test_an_error_is_not_kept(api: Api) -> None:
    api.documents.error = falcon.HTTPNotFound()

    answers = [await api.get() for _ in range(2)]

    assert [answer.headers["Cache-Status"] for answer in answers] == ["Shared; fwd=uri-miss; fwd-status=404"] * 2
    assert api.documents.calls == 2


async def test_caches_beyond_us_are_told_that_a_tenants_data_is_the_clients_alone(api: Api) -> None:
    """CACHE-6: never s-maxage, which would let a cache keep it that knows nothing of tenants."""
    told = []
    for number, field in enumerate(["", "max-age=5", "s-maxage=5", "public, max-age=5", 'max-age=5, x="public"']):
        api.documents.headers = {"Cache-Control": field} if field else {}
        for _ in range(2):
            answer = await api.get(f"/v1/documents/{number}")
        told.append((answer.headers["Cache-Control"], answer.headers.get("CDN-Cache-Control")))

    assert told == [
        ("private, no-cache", "no-store"),
        ("private, max-age=5", "no-store"),
        ("private, no-cache", "no-store"),
        ("public, max-age=5", None),
        ("private, max-age=5", "no-store"),
    ]


async def test_an_age_that_the_handler_tells_counts(api: Api, age_by: Callable[[float], None]) -> None:
    api.documents.headers = {"Age": "30"}
    await api.get()
    age_by(10)

    hit = await api.get()

    assert hit.headers["Age"] == "40"
    assert cache_status(hit)[1]["ttl"] <= TTL_SECONDS - 40


async def test_an_expiry_date_counts_where_no_age_is_told(api: Api) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=20)
    api.documents.headers = {"Expires": soon.strftime("%a, %d %b %Y %H:%M:%S GMT")}
    await api.get()

    assert 15 <= cache_status(await api.get())[1]["ttl"] <= 20


# --- what the client asks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("no-cache", "Shared; fwd=request; fwd-status=200; stored"),
        ("max-age=0", "Shared; fwd=request; fwd-status=200; stored"),
        ("max-age=5", "Shared; fwd=request; fwd-status=200; stored"),
        ("min-fresh=55", "Shared; fwd=request; fwd-status=200; stored"),
        ("no-store", "Shared; fwd=request; fwd-status=200"),
        ("max-age=20", "hit"),
        ("min-fresh=5, only-if-cached", "hit"),
    ],
)
async def test_what_the_client_asks_of_caches_is_honoured(api: Api, age_by: Callable[[float], None], field: str, said: str) -> None:
    """CACHE-5."""
    await api.get()
    age_by(10)

    answer = await api.get(Cache_Control=field)

    assert said in answer.headers["Cache-Status"]
    assert api.documents.calls == (1 if said == "hit" else 2)


async def test_whoever_wants_a_kept_answer_or_none_gets_504_without_one(api: Api) -> None:
    answers = [await api.get(Cache_Control="only-if-cached"), await api.get(token=api.token("free"), Cache_Control="only-if-cached")]

    assert [(answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) for answer in answers] == [(504, "not-cached")] * 2
    # Neither a hit, nor was anybody asked.
    assert [answer.headers["Cache-Status"] for answer in answers] == ["Shared; detail=not-cached", "None; detail=no-lane"]
    assert api.documents.calls == 0


async def test_nothing_is_kept_of_an_exchange_that_must_not_be(api: Api) -> None:
    await api.get(Cache_Control="no-store")

    assert (await api.get()).headers["Cache-Status"] == "Shared; fwd=uri-miss; fwd-status=200; stored"


@pytest.mark.parametrize("tier", ["pro", "free"])
async def test_if_none_match_is_answered_with_304_from_lane_and_handler_alike(api: Api, tier: str) -> None:
    """CACHE-4: weakly compared, in a list, or any."""
    token = api.token(tier)
    etag = (await api.get(token=token)).headers["ETag"]
    fields = [etag, f"W/{etag}", f'"x", {etag}', "*", '"x"', f"W/{etag[:-1]}"]

    answers = [await api.get(token=token, If_None_Match=field) for field in fields]

    assert [answer.status_code for answer in answers] == [304] * 4 + [200] * 2
    assert [answer.content for answer in answers[:4]] == [b""] * 4
    for answer in answers[:4]:
        assert answer.headers["ETag"] == etag
        assert {"cache-control", "vary", "cache-status", "ratelimit"} <= answer.headers.keys()
        assert answer.headers.keys().isdisjoint({"content-type", "content-length"})


async def test_a_record_is_not_sent_again_to_whoever_has_it(api: Api) -> None:
    """CACHE-4 on a route that is not kept."""
    record = "/v1/records/r"
    put = await api._client.put(
        record,
        content=b"{}",
        headers={
            "Authorization": f"Bearer {api.token()}",
            "Idempotency-Key": '"a-record-000000001"',
            "Content-Type": "application/json",
        },
    )

    assert (await api.get(record, If_None_Match=put.headers["ETag"])).status_code == 304


# --- stale answers -----------------------------------------------------------------------------------------------------------


async def test_a_stale_answer_is_served_while_one_refresh_runs(api: Api, age_by: Callable[[float], None], eventually: Any) -> None:
    """CACHE-7."""
    await api.get()
    age_by(TTL_SECONDS + 1)
    api.documents.version, api.documents.gate = 2, asyncio.Event()

    stale = await asyncio.gather(*(api.get() for _ in range(20)))
    api.documents.gate.set()

    for answer in stale:
        assert answer.text.endswith("|1")
        parameters = cache_status(answer)[1]
        assert parameters["hit"]
        assert -8 <= parameters["ttl"] <= -1

    async def is_refreshed() -> bool:
        return (await api.get()).text.endswith("|2")

    await eventually(is_refreshed)
    assert api.documents.calls == 2


async def test_a_refresh_that_hangs_keeps_no_worker_from_its_end(
    redis: Redis, valkey: Any, durable: Any, shared: Any, issuer: Any, age_by: Callable[[float], None], eventually: Any
) -> None:
    await publish(redis, document("pro", SHARED))
    documents = Documents()
    async with serving(issuer, valkey.url, durable.url, documents, TIDEGATE_CACHE_URL=shared.url) as api:
        await api.get()
        age_by(TTL_SECONDS + 1)
        documents.gate = asyncio.Event()
        await api.get()
        await eventually(lambda: documents.calls == 2)
        ends_at = time.monotonic()

    assert time.monotonic() - ends_at < 5
    async with shared.client() as client:
        (key,) = await client.keys("*")
        # The entry alone: the lease is given back, for others to refresh it.
        assert await client.hlen(key) == 1


async def test_past_its_time_a_stale_answer_is_not_served(api: Api, age_by: Callable[[float], None]) -> None:
    await api.get()
    age_by(TTL_SECONDS + 31)
    api.documents.version = 2

    answer = await api.get()

    assert answer.headers["Cache-Status"] == "Shared; fwd=stale; fwd-status=200; stored"
    assert answer.text.endswith("|2")


async def test_a_tier_that_allows_less_now_allows_less_of_what_is_kept(
    api: Api, redis: Redis, age_by: Callable[[float], None], eventually: Any
) -> None:
    """As every edit of a tier it counts within a second, whatever was kept before it."""
    await api.get()
    age_by(20)
    await publish(redis, document("pro", {"lane": "Shared", "ttl": "10s", "staleWhileRevalidate": "5s"}))
    await redis.incr(keys.REVISION)
    await redis.publish(keys.TIERS_CHANNEL, 2)

    async def is_asked_for_again() -> bool:
        return "fwd=stale" in (await api.get()).headers["Cache-Status"]

    await eventually(is_asked_for_again)
    assert api.documents.calls == 2


@pytest.mark.parametrize("directive", ["must-revalidate", "s-maxage=60"])
async def test_an_answer_that_must_be_asked_for_again_is_never_served_stale(
    api: Api, age_by: Callable[[float], None], directive: str
) -> None:
    api.documents.headers = {"Cache-Control": directive}
    await api.get()
    age_by(TTL_SECONDS + 1)
    api.documents.error = RuntimeError("bug")

    assert (await api.get()).status_code == 500


@pytest.mark.parametrize("failure", ["error", "status"])
async def test_a_stale_answer_stands_in_for_a_failure(api: Api, age_by: Callable[[float], None], failure: str) -> None:
    """CACHE-7: for a 5xx, with nothing in it of the answer that failed, and not for ever."""
    kept = await api.get()
    age_by(TTL_SECONDS + 100)
    setattr(api.documents, failure, RuntimeError("bug") if failure == "error" else 503)

    answers = [await api.get()]
    age_by(600)
    answers.append(await api.get())

    assert (answers[0].status_code, answers[0].content) == (200, kept.content)
    lane, parameters = cache_status(answers[0])
    assert parameters.pop("ttl") < -90
    assert (lane, parameters) == ("Shared", {"fwd": "stale", "detail": "stale-if-error"})
    assert "X-Half-Done" not in answers[0].headers
    assert "RateLimit" in answers[0].headers
    assert answers[1].status_code == (500 if failure == "error" else 503)


@pytest.mark.parametrize("seconds", [10, TTL_SECONDS + 100])
async def test_who_wants_a_young_answer_gets_the_failure(api: Api, age_by: Callable[[float], None], seconds: float) -> None:
    """Not what is kept in its place, fresh or stale."""
    await api.get()
    age_by(seconds)
    api.documents.status = 503

    assert (await api.get(Cache_Control="no-cache")).status_code == 503


async def test_a_lane_that_fails_is_no_failure_of_the_handler(api: Api, shared: Any, age_by: Callable[[float], None]) -> None:
    """A stale answer does not stand in for the lane: the handler is asked."""
    await api.get()
    age_by(TTL_SECONDS + 100)
    api.documents.version = 2
    async with shared.client() as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")

    answer = await api.get()

    assert answer.headers["Cache-Status"] == "Shared; fwd=bypass; fwd-status=200; detail=lane-full"
    assert answer.text.endswith("|2")


async def test_a_refusal_is_not_hidden_by_a_stale_answer(api: Api, age_by: Callable[[float], None]) -> None:
    await api.get()
    age_by(TTL_SECONDS + 100)
    api.documents.error = falcon.HTTPForbidden()

    assert (await api.get()).status_code == 403


async def test_a_dear_answer_is_refreshed_before_it_is_stale(
    api: Api, age_by: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """CACHE-8: by chance, and the likelier the dearer; here chance is certain."""
    await api.get()
    monkeypatch.setattr("tidegate.cache.reuse.is_due_early", lambda entry, now: True)
    api.documents.version = 2

    assert (await api.get()).text.endswith("|1")
    await eventually(lambda: api.documents.calls == 2)

    async def is_refreshed() -> bool:
        return (await api.get()).text.endswith("|2")

    await eventually(is_refreshed)


# --- invalidation ------------------------------------------------------------------------------------------------------------


async def test_a_mutation_invalidates_its_target_for_its_tenant_alone(api: Api) -> None:
    """CACHE-9: in every variant; one that was refused invalidates nothing."""
    other = api.token(tenant="other")
    requests: list[dict[str, Any]] = [{}, {"Accept_Language": "de"}, {"path": f"{PATH}?page=2"}, {"token": other}]
    for request in requests:
        await api.get(**request)

    refused = await api.put(f"{PATH}?fail=yes")
    before = await statuses(api, *requests)
    put = await api.put()
    after = await statuses(api, *requests)

    assert (refused.status_code, put.status_code) == (403, 200)
    assert ["; hit;" in status for status in before] == [True] * 4
    assert ["; hit;" in status for status in after] == [False] * 3 + [True]
    assert (await api.get()).text.endswith("|3")


@pytest.mark.parametrize(
    ("location", "is_kept"),
    [
        ("/v1/documents/b", False),
        ("http://api/v1/documents/b", False),
        ("https://API/v1/documents/%62?page=1", False),
        ("b", False),
        ("./x/../b", False),
        ("//api/v1/documents/b", False),
        ("http://else/v1/documents/b", True),
        ("//else/v1/documents/b", True),
        ("mailto:b", True),
    ],
)
async def test_a_mutation_invalidates_what_it_names_at_the_same_origin(api: Api, location: str, is_kept: bool) -> None:
    await api.get("/v1/documents/b")

    await api.put(f"{PATH}?location={location}")

    assert ("; hit;" in (await api.get("/v1/documents/b")).headers["Cache-Status"]) == is_kept


@pytest.mark.parametrize("location", ["http://[", "//[::1", "http://a:b:c/", "%", "\x7f"])
async def test_what_names_nothing_does_not_fail_a_mutation_that_was_made(api: Api, location: str) -> None:
    await api.get()

    put = await api.put(f"{PATH}?location={quote(location)}")

    assert put.status_code == 200
    assert "; hit;" not in (await api.get()).headers["Cache-Status"]


class LateReply:
    """Holds back the first reply of a lane to `call` that gives an answer to others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        self.is_said, self.may_arrive = asyncio.Event(), asyncio.Event()
        self.calls = Counter[str]()
        for name in ("read", "take", "store"):
            monkeypatch.setattr(Lane, name, self._counted(getattr(Lane, name), name, is_late=name == call))

    def _counted(self, method: Any, name: str, *, is_late: bool) -> Any:
        async def call(lane: Lane, *arguments: Any) -> Any:
            reply = await method(lane, *arguments)
            if is_late and not self.is_said.is_set() and (name == "store" or reply.found):
                self.is_said.set()
                await self.may_arrive.wait()
            self.calls[name] += 1
            return reply

        return call

    async def meets(self, api: Api, mutations: Api, eventually: Any) -> tuple[str, str]:
        """What who asked before a mutation is answered, and who asks after it."""
        reads = self.calls["read"]
        early = asyncio.create_task(api.get())
        await self.is_said.wait()
        await mutations.put()
        late = asyncio.create_task(api.get())
        await eventually(lambda: self.calls["read"] == reads + 2)
        self.may_arrive.set()
        return (await early).text[-1], (await late).text[-1]


async def test_who_asks_after_a_mutation_is_not_given_what_was_stored_before_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """CACHE-9: though it was stored, and the reply that says so is still on its way to the one who made it."""
    assert await LateReply(monkeypatch, "store").meets(api, api, eventually) == ("1", "2")


async def test_who_asks_after_a_mutation_is_not_given_what_another_worker_stored_before_it(
    api: Api, valkey: Any, durable: Any, shared: Any, issuer: Any, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """CACHE-9: though the lane gave it to the one whom it follows, whom it has yet to reach."""
    reply, documents = LateReply(monkeypatch, "take"), Documents(api.documents.cached)
    api.documents.gate, documents.version = asyncio.Event(), 2
    maker = asyncio.create_task(api.get())
    await eventually(lambda: api.documents.calls == 1)

    async def let_go() -> None:
        # The other worker has asked, and waits.
        await eventually(lambda: reply.calls["take"] > 1)
        api.documents.gate.set()

    async with serving(issuer, valkey.url, durable.url, documents, TIDEGATE_CACHE_URL=shared.url) as second:
        answers, _, _ = await asyncio.gather(reply.meets(second, api, eventually), let_go(), maker)

    assert answers == ("1", "2")


async def test_an_answer_from_before_a_mutation_is_neither_kept_nor_shared_after_it(api: Api, eventually: Any) -> None:
    """CACHE-9: whoever asks after the change sees it, though an older answer is still being made."""
    api.documents.gate = asyncio.Event()
    early = asyncio.create_task(api.get())
    await eventually(lambda: api.documents.calls == 1)
    await api.put()
    late = asyncio.create_task(api.get())
    await asyncio.sleep(0)
    api.documents.gate.set()

    answers = [await early, await late, await api.get()]

    assert [answer.text[-1] for answer in answers] == ["1", "2", "2"]
    assert answers[0].headers["Cache-Status"] == "Shared; fwd=uri-miss; fwd-status=200; detail=invalidated"
    assert "; hit;" in answers[2].headers["Cache-Status"]


# --- one asks for many -------------------------------------------------------------------------------------------------------


async def test_many_at_once_ask_the_handler_once(api: Api, eventually: Any) -> None:
    api.documents.gate = asyncio.Event()
    tasks = [asyncio.create_task(api.get()) for _ in range(50)]
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate.set()

    answers = await asyncio.gather(*tasks)

    assert api.documents.calls == 1
    assert len({answer.content for answer in answers}) == 1
    said = [cache_status(answer)[1] for answer in answers]
    assert sum("collapsed" in parameters for parameters in said) == 49
    assert sum("stored" in parameters for parameters in said) == 1


async def test_an_answer_that_is_not_kept_is_given_to_nobody_else(api: Api, eventually: Any) -> None:
    """Nor does a failure of one become that of all."""
    api.documents.gate, api.documents.cookie = asyncio.Event(), "secret"
    tasks = [asyncio.create_task(api.get()) for _ in range(5)]
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate.set()

    answers = await asyncio.gather(*tasks)

    assert api.documents.calls == 5
    assert not any("collapsed" in cache_status(answer)[1] for answer in answers)


async def test_a_worker_that_waits_too_long_asks_for_itself(
    api: Api,
    redis: Redis,
    valkey: Any,
    durable: Any,
    shared: Any,
    issuer: Any,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Any,
) -> None:
    monkeypatch.setattr("tidegate.cache.single_flight.WAIT_SECONDS", 0.5)
    api.documents.gate = asyncio.Event()
    first = asyncio.create_task(api.get())
    await eventually(lambda: api.documents.calls == 1)
    documents = Documents(api.documents.cached)
    async with serving(issuer, valkey.url, durable.url, documents, TIDEGATE_CACHE_URL=shared.url) as second:
        answers = await asyncio.gather(*(second.get() for _ in range(10)))

    api.documents.gate.set()
    await first
    assert documents.calls == 1
    assert sum("collapsed" in cache_status(answer)[1] for answer in answers) == 9


async def test_who_waits_too_long_for_a_handler_that_hangs_asks_once_more_in_all(
    api: Api, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """CACHE-8: the wait is bounded in the worker of the one that hangs, too."""
    monkeypatch.setattr("tidegate.cache.single_flight.WAIT_SECONDS", 1.0)
    hanging = api.documents.gate = asyncio.Event()
    first = asyncio.create_task(api.get())
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate, api.documents.version = asyncio.Event(), 2
    api.documents.gate.set()

    answers = await asyncio.gather(*(api.get() for _ in range(10)))

    assert {answer.text[-1] for answer in answers} == {"2"}
    assert api.documents.calls == 2
    assert sum("collapsed" in cache_status(answer)[1] for answer in answers) == 9
    hanging.set()
    assert (await first).status_code == 200


async def test_a_handler_that_hangs_loses_its_lease(api: Api, monkeypatch: pytest.MonkeyPatch, eventually: Any) -> None:
    """Or nothing would be kept at its path until it is over."""
    monkeypatch.setattr("tidegate.cache.lane.LEASE_MILLISECONDS", 200)
    monkeypatch.setattr("tidegate.cache.lease.LEASE_MILLISECONDS", 200)
    monkeypatch.setattr("tidegate.cache.lease.LONGEST_SECONDS", 0.1)
    hanging = api.documents.gate = asyncio.Event()
    first = asyncio.create_task(api.get())
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate = asyncio.Event()
    api.documents.gate.set()

    async def is_kept() -> bool:
        return "stored" in cache_status(await api.get(Cache_Control="no-cache"))[1]

    hit = None
    try:
        # In another worker; this one's table of flights is not what holds it back.
        monkeypatch.setattr("tidegate.cache.single_flight.SingleFlight.is_flying", lambda *_: False)
        await eventually(is_kept)
        hit = await api.get()
    finally:
        hanging.set()
    assert "hit" in cache_status(hit)[1]
    assert (await first).headers["Cache-Status"].endswith("detail=invalidated")


# --- the lane ----------------------------------------------------------------------------------------------------------------


async def test_a_flushed_lane_is_filled_again(api: Api, shared: Any) -> None:
    """With its scripts, too."""
    await api.get()
    shared.flush()
    async with shared.client() as client:
        await client.script_flush()

    said = await statuses(api, {}, {})

    assert said[0] == "Shared; fwd=uri-miss; fwd-status=200; stored"
    assert said[1].startswith("Shared; hit")


async def test_a_lane_that_is_flushed_while_an_answer_is_made_fails_nobody(api: Api, shared: Any, eventually: Any) -> None:
    """It may have been an invalidation: nothing is kept, and those who waited ask once more in all."""
    first_gate = api.documents.gate = asyncio.Event()
    tasks = [asyncio.create_task(api.get()) for _ in range(20)]
    await eventually(lambda: api.documents.calls == 1)
    api.documents.gate = asyncio.Event()
    api.documents.gate.set()
    shared.flush()
    first_gate.set()

    answers = await asyncio.gather(*tasks)

    assert {answer.status_code for answer in answers} == {200}
    assert api.documents.calls == 2
    assert "; hit;" in (await api.get()).headers["Cache-Status"]


async def test_a_lane_without_room_keeps_nothing_more_and_fails_nobody(api: Api, shared: Any) -> None:
    """What it has it serves and forgets as ever."""
    await api.get("/v1/documents/kept")
    async with shared.client() as client:
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")

    answers = [await api.get() for _ in range(2)]
    kept = await api.get("/v1/documents/kept")
    await api.put("/v1/documents/kept")
    changed = await api.get("/v1/documents/kept")

    full = "Shared; fwd=bypass; fwd-status=200; detail=lane-full"
    assert [answer.headers["Cache-Status"] for answer in [*answers, changed]] == [full] * 3
    assert "; hit;" in kept.headers["Cache-Status"]
    assert changed.text.endswith("|2")


async def test_the_lane_holds_no_name_token_path_or_content(api: Api, shared: Any) -> None:
    """LANE-1, CACHE-2: pseudonyms and ciphertext alone."""
    token = api.token()
    await api.get(token=token)

    async with shared.client() as client:
        (key,) = await client.keys("*")
        held = key + b"".join(field + value for field, value in (await client.hgetall(key)).items())
        lives = await client.pttl(key)

    for secret in (b"acme", b"documents", token.encode()[-40:], b"text/plain", b"issuer"):
        assert secret not in held
    assert 0 < lives <= (TTL_SECONDS + 600) * 1000


async def test_an_entry_that_was_moved_to_another_place_is_not_opened(api: Api, shared: Any) -> None:
    other = api.token(tenant="other")
    await api.get()
    await api.get(token=other)
    async with shared.client() as client:
        first, second = await client.keys("*")
        ((field, value),) = (await client.hgetall(first)).items()
        ((other_field, other_value),) = (await client.hgetall(second)).items()
        await client.hset(first, field, other_value)
        await client.hset(second, other_field, value)

    answers = [await api.get(), await api.get(token=other)]

    assert [answer.text.split("|")[0] for answer in answers] == ["acme", "other"]
    assert not any("; hit;" in answer.headers["Cache-Status"] for answer in answers)
