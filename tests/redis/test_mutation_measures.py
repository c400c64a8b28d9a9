"""What is counted of mutations and claims, with a real Valkey."""

import asyncio
from collections.abc import Awaitable, Callable

import falcon
import pytest
from redis.asyncio import Redis
from tests.redis.test_mutations import LosesAnswers, client_of, key, purchase

from tidegate.idempotency.measures import MutationMeasures
from tidegate.idempotency.transaction import ATTEMPTS
from tidegate.resources.errors import RecordNotFoundError
from tidegate.store.base import Write
from tidegate.store.redis import RedisStore

TALK = "/v1/talk"
Respond = Callable[..., Awaitable[None]]


@pytest.fixture
def measures() -> MutationMeasures:
    return MutationMeasures()


class Talk:
    """Answers as it is told."""

    def __init__(self, respond: Respond) -> None:
        self.on_post = respond


async def test_a_mutation_is_done_then_replayed_and_its_key_reused_or_expired(store, measures, redis: Redis):
    async with client_of(store, measures=measures) as api:
        headers = key()
        for amount in (100, 100, 200):
            await purchase(api, headers, amount)
        for name in await redis.keys("*result/*"):
            await redis.delete(name)
        await purchase(api, headers)

    assert measures.outcomes == {"done": 1, "replayed": 1, "reused": 1, "expired": 1}


async def test_of_duplicates_at_once_one_is_done_and_the_others_are_replayed(store, measures):
    async with client_of(store, measures=measures) as api:
        headers = key()
        await asyncio.gather(*(purchase(api, headers) for _ in range(10)))

    assert measures.outcomes == {"done": 1, "replayed": 9}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RecordNotFoundError("none"), "done"),
        (falcon.HTTPConflict(), "done"),
        (falcon.HTTPPreconditionFailed(), "refused"),
        (falcon.HTTPServiceUnavailable(), "failed"),
        (RuntimeError("bug"), "failed"),
    ],
)
async def test_an_error_of_a_handler_is_an_outcome_a_refusal_or_a_failure(store, measures, error, outcome):
    async def fail(req, resp):
        raise error

    async with client_of(store, measures=measures, talk=Talk(fail)) as api:
        await api.post(TALK, headers=key())

    assert measures.outcomes == {outcome: 1}


async def test_a_wrong_body_is_a_refusal(store, measures):
    async with client_of(store, measures=measures) as api:
        await purchase(api, key(), "much")

    assert measures.outcomes == {"refused": 1}


async def test_a_mutation_that_is_given_up_was_run_again_each_time_its_data_changed(store, measures):
    async def contested(req, resp):
        await req.context.unit_of_work.read("contested")
        await store.commit({}, [Write("contested", b"1")])

    async with client_of(store, measures=measures, talk=Talk(contested)) as api:
        await api.post(TALK, headers=key())

    assert measures.outcomes == {"conflict": 1}
    assert measures.repeated_runs == ATTEMPTS - 1


async def test_a_store_without_an_answer_is_counted_at_the_look_up_and_at_the_commit(valkey, valkeys, measures):
    server = valkeys()
    gone, losing = RedisStore(server.client(timeout=0.5)), LosesAnswers(valkey.client())
    server.kill()
    for store in (gone, losing):
        async with client_of(store, measures=measures) as api:
            await purchase(api, key())
        await store.close()

    assert measures.outcomes == {"unavailable": 2}


class Outside:
    """The outside world: has an effect, fails at it first if it is told to, and knows of what it did."""

    def __init__(self, *, fails: bool = False, is_done: bool = False) -> None:
        self._fails, self._is_done = fails, is_done

    async def perform(self, effect):
        if self._fails:
            self._fails = False
            raise RuntimeError("no reply")
        return "done"

    async def find(self, effect):
        return "done" if self._is_done else None


async def test_an_effect_that_goes_well_takes_one_claim(store, measures):
    async def pay(req, resp):
        await req.context.effect.carry_out(Outside().perform)

    async with client_of(store, measures=measures, talk=Talk(pay)) as api:
        await api.post(TALK, headers=key())

    assert (measures.outcomes, measures.claims) == ({"done": 1}, {"taken": 1})


@pytest.mark.parametrize(("is_done", "event"), [(True, "found"), (False, "absent")])
async def test_an_unknown_outcome_is_taken_over_and_reconciled(store, measures, is_done, event):
    outside = Outside(fails=True, is_done=is_done)

    async def pay(req, resp):
        await req.context.effect.carry_out(outside.perform, outside.find)

    async with client_of(store, measures=measures, talk=Talk(pay)) as api:
        for headers in [key()] * 2:
            await api.post(TALK, headers=headers)

    assert measures.outcomes == {"failed": 1, "done": 1}
    assert measures.claims == {"taken": 1, "unknown": 1, "taken_over": 1, event: 1}


async def test_an_outcome_that_nothing_can_tell_is_counted_each_time_that_somebody_asks(store, measures):
    outside = Outside(fails=True)

    async def pay(req, resp):
        await req.context.effect.carry_out(outside.perform)

    async with client_of(store, measures=measures, talk=Talk(pay)) as api:
        for headers in [key()] * 3:
            await api.post(TALK, headers=headers)

    assert measures.outcomes == {"failed": 1, "outcome_unknown": 2}
    assert measures.claims == {"taken": 1, "unknown": 1}


async def test_an_owner_that_sleeps_through_its_lease_has_lost_its_claim(store, measures, redis: Redis):
    """And while it holds it, a duplicate is told to come back."""
    outside, arrived, resumed = Outside(is_done=True), asyncio.Event(), asyncio.Event()

    async def pay(req, resp):
        async def perform(effect):
            arrived.set()
            await resumed.wait()
            return "done"

        await req.context.effect.carry_out(perform, outside.find)

    async with client_of(store, measures=measures, talk=Talk(pay)) as api:
        headers = key()
        first = asyncio.create_task(api.post(TALK, headers=headers))
        await arrived.wait()
        await api.post(TALK, headers=headers)
        for name in await redis.keys("*lease/*"):
            await redis.delete(name)
        await api.post(TALK, headers=headers)
        resumed.set()
        await first

    assert measures.outcomes == {"in_progress": 1, "done": 1, "replayed": 1}
    assert measures.claims == {"taken": 1, "taken_over": 1, "found": 1, "lost": 1}
