"""`decide.lua` against its model, on the server's own clock: the same grants, readings and bytes, whatever was stored before."""

import os
import struct
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits import vector
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.group_commit import GroupCommit, Run
from tidegate.limits.policy import policy_of
from tidegate.limits.record import Record, encode
from tidegate.limits.shape import LOG_FORM, Shape, shapes_of
from tidegate.limits.vector import Ask, charges_of
from tidegate.limits.wire import Answer, answers, arguments, decided_at, key_names

KEY = "tg:1:usage:{0}:t"
SCRIPT = resources.files("tidegate.limits").joinpath("decide.lua").read_text()
PERIODS = (1, 60, 3600, 86_401, 744 * 3600)

on_a_server = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

WINDOWS = st.lists(
    st.builds(
        Window,
        st.just("w"),
        st.sampled_from((1, 2, 9, 16, 17, 60, 2**32 - 1, 2**32, 2**53 - 1)),
        st.sampled_from(PERIODS),
        st.sampled_from(Unit),
    ),
    min_size=1,
    max_size=8,
).map(tuple)
AMOUNTS = st.builds(Amounts, st.integers(0, 12), st.integers(0, 12), st.none() | st.integers(0, 40) | st.just(2**33))
STEPS = st.lists(st.tuples(st.integers(0, 1), AMOUNTS, st.integers(1, 9)), min_size=1, max_size=6)
COUNTED = st.sampled_from((10, 24, 10 + 64, 24 + 64))


@st.composite
def records(draw: st.DrawFn, now: int) -> Record:
    """A record of any age, up to two sub-windows ahead of the clock."""
    unit, period = draw(st.integers(0, 7)), draw(st.sampled_from(PERIODS))
    if draw(st.booleans()):
        ages = draw(st.lists(st.integers(-2000, period * 1000 + 2000), max_size=16))
        return Record(Shape(unit, period, LOG_FORM), 0, tuple(now // 1000 - age for age in sorted(ages, reverse=True)))
    shape = Shape(unit, period, draw(COUNTED))
    past = draw(st.lists(st.sampled_from((0, 0, 1, 5, 2**32 - 1)), min_size=shape.size, max_size=shape.size))
    return Record(shape, shape.index_at(now) - draw(st.integers(-2, shape.size + 2)), tuple(past), draw(st.sampled_from((0, 3, 2**34))))


def clock(redis: Redis) -> int:
    seconds, microseconds = redis.time()
    return int(seconds) * 1_000_000 + int(microseconds)


def run_of(windows: tuple[Window, ...], amounts: Amounts, count: int) -> Run[object]:
    return Run(("t",), policy_of(Tier("t", windows)), amounts, callers=[object()] * count)


class Waiter:
    def cancelled(self) -> bool:
        return False


def gathered(windows: tuple[Window, ...], amounts: Sequence[Amounts]) -> list[Run[Waiter]]:
    """Requests as they leave together: equal ones in a row are one run, and so are charges."""
    commit: GroupCommit[Waiter] = GroupCommit()
    policy = policy_of(Tier("t", windows))
    for amount in amounts:
        commit.add(("t",), policy, amount, Waiter())
    return commit.take()


def asks_of(run: Run[object]) -> list[Ask]:
    windows = run.policy.windows
    pairs = zip(shapes_of(windows), windows, strict=True)
    return [Ask(shape, window.limit, *run.amounts.of(window.unit)) for shape, window in pairs]


def read(batch: Sequence[Run[Any]], reply: bytes) -> Iterator[Answer]:
    """The answers, also of those that are all granted."""
    for run, answer in zip(batch, answers(batch, reply), strict=True):
        assert answer is not None
        yield Answer(len(run.callers), lambda answer=answer: answer.windows) if isinstance(answer, Decision) else answer


def agree(redis: Redis, run: Run[object]) -> None:
    """Have both decide on what is stored, and compare."""
    before = redis.get(KEY)
    reply = redis.eval(SCRIPT, 1, KEY, *arguments([run]))
    (answer,) = read([run], reply)
    now = int(decided_at(reply))
    count = 0 if run.amounts.is_charge else len(run.callers)

    outcome = vector.decide(before, asks_of(run), now, count=count, charges=charges_of(run.amounts))

    assert answer.granted == (len(run.callers) if run.amounts.is_charge else outcome.granted)
    assert [state.used for state in answer.read()] == [reading.used for reading in outcome.readings]
    assert [state.reset_seconds for state in answer.read()] == pytest.approx([reading.reset / 1e6 for reading in outcome.readings])
    if outcome.granted < count:
        assert answer.waits == pytest.approx([reading.wait / 1e6 for reading in outcome.readings])
    assert redis.get(KEY) == (outcome.vector or before)
    if outcome.vector:
        assert 0 < redis.pttl(KEY) <= outcome.expiry_milliseconds


@pytest.mark.timeout(1200)
@settings(on_a_server, max_examples=int(os.environ.get("HISTORIES", "300")))
@given(data=st.data(), tiers=st.tuples(WINDOWS, WINDOWS), steps=STEPS)
def test_the_script_does_what_the_model_does(valkey, data, tiers, steps):
    """RL-10, RL-14: two tiers take turns on one identity that has any history; the model's exactness is the script's."""
    with Redis(port=valkey.port) as redis:
        history = data.draw(st.lists(records(clock(redis)), max_size=6, unique_by=lambda r: (r.shape.unit, r.shape.period_seconds)))
        redis.delete(KEY)
        if history:
            redis.set(KEY, encode(history), px=1_000_000)
        for tier, amounts, count in steps:
            agree(redis, run_of(tiers[tier], amounts, count))


@settings(on_a_server, max_examples=200)
@given(garbage=st.binary(max_size=300) | st.integers(0, 200), windows=WINDOWS)
def test_bytes_of_unknown_form_are_replaced_and_never_raise(valkey, garbage, windows):
    """Also a sound vector that was cut short or continued."""
    with Redis(port=valkey.port) as redis:
        shapes = shapes_of(windows)
        sound = encode([Record(shape, 0, ()) if shape.is_log else Record(shape, 1, (1,) * shape.size) for shape in shapes])
        redis.set(KEY, garbage if isinstance(garbage, bytes) else sound[:garbage] if garbage % 2 else sound + bytes(garbage))

        agree(redis, run_of(windows, Amounts(), 3))


@pytest.mark.parametrize(("older", "newest"), [(0.0, 2.5), (0.5, 0.0), (float("inf"), 0.0), (0.0, float("nan")), (7.0, 1.0), (-1.0, 2.0)])
def test_a_vector_of_impossible_numbers_is_replaced_and_harms_no_neighbour(valkey, older, newest):
    """Numbers that no worker can have written, in a vector of the right size: also where a sub-window has to turn."""
    windows = (Window("minute", 20, 60), Window("second", 40, 1))
    shapes = shapes_of(windows)
    sound = encode([Record(shape, 1, (0,) * shape.size) for shape in shapes])
    corrupt = bytearray(sound)
    struct.pack_into("<dd", corrupt, 2 + 5 * 2 + 4, older, newest)
    with Redis(port=valkey.port) as redis:
        for stored in (bytes(corrupt), bytes(corrupt[:12]) + struct.pack("<I", 2**31) + bytes(corrupt[16:])):
            redis.set(KEY, stored)
            runs = [run_of(windows, Amounts(), 1) for _ in range(2)]
            runs[1].tids = ("neighbour",)

            found = list(read(runs, redis.eval(SCRIPT, 2, *key_names(runs), *arguments(runs))))

            assert [(answer.granted, answer.is_broken) for answer in found] == [(1, False)] * 2
            redis.delete(KEY, "tg:1:usage:{0}:neighbour")


def test_a_broken_vector_fails_its_own_run_alone(valkey):
    """One identity's trouble is nobody else's."""
    windows = (Window("minute", 20, 60),)
    runs = [run_of(windows, Amounts(), 1) for _ in range(3)]
    runs[0].tids, runs[2].tids = ("a",), ("b",)
    with Redis(port=valkey.port) as redis:
        redis.hset(KEY, "field", "value")

        found = list(read(runs, redis.eval(SCRIPT, 3, *key_names(runs), *arguments(runs))))

    assert [(answer.granted, answer.is_broken) for answer in found] == [(1, False), (0, True), (1, False)]


@settings(on_a_server, max_examples=100)
@given(windows=WINDOWS, amounts=st.lists(AMOUNTS, min_size=1, max_size=12))
def test_a_batch_is_as_good_as_one_request_after_another(valkey, windows, amounts):
    """All runs of a batch, equal ones together, grant, answer and leave what single requests would."""
    with Redis(port=valkey.port) as redis:
        singles = [run_of(windows, amount, 1) for amount in amounts]
        ways = [[singles], [[run] for run in singles], [gathered(windows, amounts)]]
        found = []
        for batches in ways:
            replies = [list(read(batch, redis.eval(SCRIPT, len(batch), *[KEY] * len(batch), *arguments(batch)))) for batch in batches]
            every = [answer for reply in replies for answer in reply]
            # Instants differ, so only what is counted is compared: in all windows of a minute and longer, whose sub-windows stay.
            last = [state.used for state in every[-1].read() if state.window.period_seconds >= 60]
            found.append((sum(answer.granted for answer in every), last))
            redis.delete(KEY)

    assert found[0] == found[1] == found[2]
