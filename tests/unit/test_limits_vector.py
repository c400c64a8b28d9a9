"""The usage vector against an exact log of what was admitted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.tier import Unit, Window
from tidegate.limits import vector
from tidegate.limits.vector import Ask, Record

START = 1_795_000_000_000_000
PERIODS = (1, 3, 60)
# Gaps around the edges of sub-windows and windows, where approximations break, and anything in between.
EDGES = st.builds(
    lambda period, tenths, offset: max(0, period * tenths * 100_000 + offset),
    st.sampled_from(PERIODS),
    st.integers(0, 12),
    st.integers(-1, 1),
)
GAPS = st.one_of(st.just(0), EDGES, st.integers(0, 70_000_000))
LIMITS = st.dictionaries(st.sampled_from(PERIODS), st.integers(1, 12), min_size=1)
HISTORIES = st.lists(st.tuples(GAPS, st.integers(1, 5)), max_size=60)


def asks(limits: dict[int, int], cost: int) -> list[Ask]:
    return [Ask(period, period, limit, cost, cost) for period, limit in limits.items()]


def used_between(log: list[tuple[int, int]], since: float, until: float) -> int:
    return sum(cost for at, cost in log if since < at <= until)


@given(LIMITS, HISTORIES)
def test_no_trailing_window_ever_holds_more_than_its_limit(limits: dict[int, int], history: list[tuple[int, int]]):
    """RL-10, for arrivals at the edges of sub-windows and bursts at one instant; all windows at once."""
    stored, now, log = None, START, []
    for gap, cost in history:
        now += gap
        outcome = vector.decide(stored, asks(limits, cost), now)
        if outcome.granted:
            stored = outcome.vector
            log.append((now, cost))

    for at, _ in log:
        assert all(used_between(log, at - period * 1e6, at) <= limit for period, limit in limits.items())


@given(LIMITS, HISTORIES)
def test_a_refusal_would_break_the_limit_of_a_window_one_tenth_longer(limits: dict[int, int], history: list[tuple[int, int]]):
    """The price of exactness is bounded: sustained throughput of at least 10/11 of the limit."""
    stored, now, log = None, START, []
    for gap, cost in history:
        now += gap
        outcome = vector.decide(stored, asks(limits, cost), now)
        if outcome.granted:
            stored = outcome.vector
            log.append((now, cost))
        else:
            longer = [used_between(log, now - period * 1.1e6, now) + cost > limit for period, limit in limits.items()]
            assert any(longer)


@given(LIMITS, HISTORIES)
def test_a_refused_request_passes_at_exactly_the_returned_instant(limits: dict[int, int], history: list[tuple[int, int]]):
    """RL-4: retrying at the returned wait succeeds, a microsecond earlier does not, while nobody else charges."""
    stored, now = None, START
    for gap, cost in history:
        now += gap
        outcome = vector.decide(stored, asks(limits, cost), now)
        stored = outcome.vector or stored
        wait = max(reading.wait for reading in outcome.readings)
        if wait and all(cost <= limit for limit in limits.values()):
            assert vector.decide(stored, asks(limits, cost), now + wait).granted
            assert not vector.decide(stored, asks(limits, cost), now + wait - 1).granted


@given(LIMITS, HISTORIES)
def test_a_refusal_writes_nothing_and_leaves_no_trace(limits: dict[int, int], history: list[tuple[int, int]]):
    """Refusals are free (RL-12), and no window is charged when another refuses (RL-11)."""
    stored, now = None, START
    for gap, cost in history:
        now += gap
        outcome = vector.decide(stored, asks(limits, cost), now)
        before = vector.decide(stored, asks(limits, 0), now).readings
        if not outcome.granted:
            assert outcome.vector is None
            assert [reading.used for reading in outcome.readings] == [reading.used for reading in before]
        stored = outcome.vector or stored


def test_sustained_overload_gets_ten_elevenths_of_the_limit():
    """The stated loss of ten sub-windows, reached by callers that never pause."""
    stored, admitted = None, 0
    for tick in range(11_000):
        outcome = vector.decide(stored, [Ask(1, 1, 100, 1, 1)], START + tick * 1_000)
        stored = outcome.vector or stored
        admitted += outcome.granted

    assert admitted == 1_000


RECORDS = st.builds(
    Record,
    st.integers(0, 2**32 - 1),
    st.integers(1, 744 * 3600),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**40), min_size=11, max_size=11).map(tuple),
)


@given(st.lists(RECORDS, max_size=8))
def test_decoding_reverses_encoding(records: list[Record]):
    assert vector.decode(vector.encode(records)) == records


@given(st.binary(max_size=400) | st.binary(min_size=208, max_size=208).map(lambda tail: b"\x01" + tail))
def test_no_bytes_make_a_decision_fail(stored: bytes):
    """A vector of unknown form is replaced, never raised over."""
    outcome = vector.decide(stored, [Ask(1, 60, 10, 1, 1)], START)

    assert all(not math.isnan(reading.used) for reading in outcome.readings)


def charged(asks: list[Ask], now: int = START, stored: bytes | None = None) -> bytes:
    outcome = vector.decide(stored, asks, now)
    assert outcome.vector
    return outcome.vector


def test_a_changed_limit_keeps_what_was_used():
    """RL-14."""
    stored = charged([Ask(1, 60, 10, 7, 7)])

    lowered = vector.decide(stored, [Ask(1, 60, 5, 1, 1)], START)
    raised = vector.decide(stored, [Ask(1, 60, 20, 1, 1)], START)

    assert (lowered.granted, lowered.readings[0].used) == (False, 7)
    assert (raised.granted, raised.readings[0].used) == (True, 8)


def test_a_longer_period_goes_on_from_what_was_used():
    stored = charged([Ask(1, 60, 10, 7, 7)])

    longer = vector.decide(stored, [Ask(1, 120, 10, 1, 1)], START)

    assert longer.readings[0].used == 8


def test_a_window_that_another_tier_lacks_is_kept():
    """Two tiers may share one identity: alternating between them refills neither."""
    stored = charged([Ask(1, 60, 10, 10, 10)])

    stored = charged([Ask(2, 1, 5, 1, 1)], stored=stored)

    assert not vector.decide(stored, [Ask(1, 60, 10, 1, 1)], START).granted


def test_a_window_that_no_longer_counts_is_dropped():
    stored = charged([Ask(1, 1, 10, 1, 1)])

    stored = charged([Ask(2, 60, 5, 1, 1)], now=START + 2_000_000, stored=stored)

    assert [record.id for record in vector.decode(stored)] == [2]


def test_a_clock_that_goes_back_reopens_nothing():
    stored = charged([Ask(1, 1, 10, 10, 10)])

    outcome = vector.decide(stored, [Ask(1, 1, 10, 1, 1)], START - 3_600_000_000)

    assert not outcome.granted


def test_a_request_above_the_limit_waits_for_the_whole_window():
    assert vector.decide(None, [Ask(1, 60, 10, 11, 11)], START).readings[0].wait == 66_000_000


def test_what_is_not_checked_passes_a_spent_window():
    """A response is charged after the fact (VEC-2), and a request of cost 0 is free."""
    stored = charged([Ask(1, 60, 10, 10, 10)])

    assert vector.decide(stored, [Ask(1, 60, 10, 0, 900)], START).readings[0].used == 910


@pytest.mark.parametrize(("name", "unit"), [("minute", Unit.COST), ("hour", Unit.REQUESTS)])
def test_a_window_is_known_by_name_and_unit(name: str, unit: Unit):
    minute = vector.window_id(Window("minute", 10, 60))

    assert vector.window_id(Window(name, 10, 60, unit)) != minute
    assert vector.window_id(Window("minute", 99, 120)) == minute
