"""The usage vector against an exact log of what was admitted."""

import math
from base64 import b64decode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidegate.contract.tier import Unit, Window
from tidegate.limits import vector
from tidegate.limits.record import Record, decode, encode
from tidegate.limits.shape import LOG_FORM, LOG_SIZE, WIDE, Shape, shapes_of
from tidegate.limits.vector import Ask

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


REQUESTS, COST = 0, 1


def ask(period: int, limit: int, check: int, charge: int | None = None, *, form: int = 10, unit: int = REQUESTS) -> Ask:
    return Ask(Shape(unit, period, form), limit, check, check if charge is None else charge)


def asks(limits: dict[int, int], cost: int) -> list[Ask]:
    return [ask(period, limit, cost) for period, limit in limits.items()]


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
            assert vector.decide(stored, asks(limits, cost), now + int(wait)).granted
            assert not vector.decide(stored, asks(limits, cost), now + int(wait) - 1).granted


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
        outcome = vector.decide(stored, [ask(1, 100, 1)], START + tick * 1_000)
        stored = outcome.vector or stored
        admitted += outcome.granted

    assert admitted == 1_000


@given(st.sampled_from(PERIODS), st.integers(1, LOG_SIZE), st.lists(GAPS, max_size=60))
def test_a_log_is_exact(period: int, limit: int, gaps: list[int]):
    """A small limit loses nothing: what is refused would have broken it, give or take the millisecond of a stamp."""
    stored, now, log = None, START, []
    for gap in gaps:
        now += gap
        outcome = vector.decide(stored, [ask(period, limit, 1, form=LOG_FORM)], now)
        stored = outcome.vector or stored
        if outcome.granted:
            log.append((now, 1))
        assert used_between(log, now - period * 1e6, now) <= limit
        assert outcome.granted or used_between(log, now - period * 1e6 - 2_000, now) >= limit


@given(st.sampled_from(PERIODS), st.integers(1, LOG_SIZE), st.lists(GAPS, min_size=1, max_size=60))
def test_a_refused_request_passes_a_log_at_the_returned_instant(period: int, limit: int, gaps: list[int]):
    """RL-4, to the millisecond of a stamp."""
    stored, now, one = None, START, [ask(period, limit, 1, form=LOG_FORM)]
    for gap in gaps:
        now += gap
        outcome = vector.decide(stored, one, now)
        stored = outcome.vector or stored
        wait = int(outcome.readings[0].wait)
        if not outcome.granted:
            assert vector.decide(stored, one, now + wait).granted
            assert not vector.decide(stored, one, now + wait - 1).granted


@given(LIMITS, HISTORIES, st.integers(1, 6))
def test_many_requests_at_once_are_as_good_as_one_after_another(limits: dict[int, int], history: list[tuple[int, int]], count: int):
    """The longest prefix that fits, and the same bytes."""
    together, alone, now = None, None, START
    for gap, cost in history:
        now += gap
        outcome = vector.decide(together, asks(limits, cost), now, count=count)
        singles = []
        for _ in range(count):
            singles.append(vector.decide(alone, asks(limits, cost), now))
            alone = singles[-1].vector or alone
        together = outcome.vector or together
        assert outcome.granted == sum(single.granted for single in singles)
        assert together == alone


@st.composite
def records(draw: st.DrawFn) -> Record:
    period = draw(st.integers(1, 744 * 3600))
    if draw(st.booleans()):
        instants = st.integers(START // 1000 - period * 1000 + 1, START // 1000)
        return Record(Shape(draw(st.integers(0, 31)), period, LOG_FORM), 0, tuple(sorted(draw(st.lists(instants, max_size=LOG_SIZE)))))
    shape = Shape(draw(st.integers(0, 31)), period, draw(st.sampled_from((10, 24, 10 + WIDE, 24 + WIDE))))
    amounts = st.integers(0, 2**40 if shape.form >= WIDE else 2**32 - 1)
    past = draw(st.lists(amounts, min_size=shape.size, max_size=shape.size))
    return Record(shape, shape.index_at(START), tuple(past), draw(st.integers(0, 2**40)))


@given(st.lists(records(), max_size=9))
def test_decoding_reverses_encoding(found: list[Record]):
    assert decode(encode(found), START) == found


def test_a_vector_of_an_earlier_release_is_read():
    """By a literal: workers of two releases count together in a rollout, and what one cannot read it begins anew."""
    stored = (
        "AQIAPAAACgABAACQyuvUEQAAAAAAABhAAAAAAAAAEEAAAAAAAAAAAAAAAABAAAAAAAAAAAAAAQAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwAAAAxcVu4A"
        "XlbuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    )
    minute, second = Shape(REQUESTS, 60, 10), Shape(REQUESTS, 1, LOG_FORM)
    counted = Record(minute, minute.index_at(START), (1, 0, 2, 0, 0, 0, 0, 0, 0, 3), 4)
    logged = Record(second, 0, (START // 1000 - 500, START // 1000))

    assert decode(b64decode(stored), START) == [counted, logged]


@given(st.binary(max_size=400) | st.binary(min_size=68, max_size=68).map(lambda tail: b"\x01\x01" + tail))
def test_no_bytes_make_a_decision_fail(stored: bytes):
    """A vector of unknown form is replaced, never raised over."""
    outcome = vector.decide(stored, [ask(60, 10, 1)], START)

    assert all(not math.isnan(reading.used) for reading in outcome.readings)


def charged(asks: list[Ask], now: int = START, stored: bytes | None = None) -> bytes:
    outcome = vector.decide(stored, asks, now)
    assert outcome.vector
    return outcome.vector


def used(stored: bytes, *asks: Ask, now: int = START) -> list[int]:
    looks = [Ask(each.shape, each.limit, 0, 0) for each in asks]
    return [reading.used for reading in vector.decide(stored, looks, now, count=0).readings]


def test_a_changed_limit_keeps_what_was_used():
    """RL-14."""
    stored = charged([ask(60, 10, 7)])

    lowered = vector.decide(stored, [ask(60, 5, 1)], START)
    raised = vector.decide(stored, [ask(60, 20, 1)], START)

    assert (lowered.granted, lowered.readings[0].used) == (0, 7)
    assert (raised.granted, raised.readings[0].used) == (1, 8)


@pytest.mark.parametrize("period", [30, 120, 7200])
def test_a_changed_period_refills_nothing(period: int):
    """RL-14: what was used lately is used in the shorter period too, and all of it in the longer."""
    stored = charged([ask(60, 10, 10)])

    assert not vector.decide(stored, [ask(period, 10, 1)], START).granted


def test_a_shorter_period_forgets_what_it_no_longer_spans():
    stored = charged([ask(60, 10, 4)])
    later = START + 30_000_000

    stored = charged([ask(60, 10, 3)], now=later, stored=stored)

    assert used(stored, ask(20, 10, 1), now=later) == [3]


def test_a_new_window_goes_on_from_what_is_known_of_its_unit():
    """An hour that joins a minute begins with that minute; another unit's begins at nothing."""
    stored = charged([ask(60, 10, 7)])

    assert used(stored, ask(60, 10, 1), ask(3600, 99, 1), ask(3600, 99, 1, unit=COST)) == [7, 7, 0]


@pytest.mark.parametrize(("before", "after"), [(10, LOG_FORM), (LOG_FORM, 10), (10, 10 + WIDE), (10 + WIDE, 10), (24, 10)])
def test_another_form_keeps_what_was_used(before: int, after: int):
    """A limit that crosses 16 or 2^32 changes how usage is stored, never how much there is."""
    stored = charged([ask(60, 16, 1, 5 if before != LOG_FORM else 1, form=before)])
    amount = used(stored, ask(60, 16, 1, form=before))

    assert used(stored, ask(60, 16, 1, form=after)) == amount
    again = charged([ask(60, 16, 1, form=after)], stored=stored)
    assert used(again, ask(60, 16, 1, form=after)) == [amount[0] + 1]


def test_usage_that_no_log_can_hold_is_kept_until_it_has_left():
    stored = charged([ask(60, 900, 500)])

    assert not vector.decide(stored, [ask(60, 10, 1, form=LOG_FORM)], START + 59_000_000).granted
    assert vector.decide(stored, [ask(60, 10, 1, form=LOG_FORM)], START + 66_000_000).granted


def test_a_window_that_another_tier_lacks_is_kept():
    """Two tiers may share one identity: alternating between them refills neither."""
    stored = charged([ask(60, 10, 10)])

    stored = charged([ask(1, 25, 1, unit=COST)], stored=stored)

    assert not vector.decide(stored, [ask(60, 10, 1)], START).granted


def test_a_short_window_begins_beside_a_long_one_once():
    """Refused while what it began with counts, a second or so, and then never again for the long window's sake."""
    stored = charged([ask(86_400, 10**6, 50, form=24)])
    both = [ask(86_400, 10**6, 1, form=24), ask(1, 10, 1)]

    first = vector.decide(stored, both, START + 2_000_000)
    assert not first.granted
    wait = int(max(reading.wait for reading in first.readings))
    assert wait <= 1_100_000
    stored = first.vector
    outcomes = []
    for tick in range(50):
        outcome = vector.decide(stored, both, START + 2_000_000 + wait + tick * 500_000)
        outcomes.append(outcome.granted)
        stored = outcome.vector or stored

    assert outcomes == [1] * 50


def test_tiers_that_take_turns_leave_each_others_short_windows_alone():
    """An identity on a tier of months and on one of seconds is not locked out of the second by the first."""
    months, seconds, stored, granted = [ask(744 * 3600, 10**6, 1, form=24)], [ask(1, 20, 1)], None, []
    for tick in range(100):
        for tier in (months, seconds):
            outcome = vector.decide(stored, tier, START + tick * 200_000)
            stored = outcome.vector or stored
            granted.append(outcome.granted)

    assert all(granted)


EDITS = st.lists(st.tuples(GAPS, st.sampled_from([(1, 4), (2, 6), (3, 9), (4, 16), (4, 17), (6, 20)]), st.integers(1, 3)), max_size=80)


@given(EDITS)
def test_however_a_tier_is_edited_no_window_that_was_there_all_along_passes_its_limit(edits: list[tuple[int, tuple[int, int], int]]):
    """RL-14, against a log that knows nothing of vectors. What a window is asked about begins with its first appearance: before that,
    grants may have left what was known by then."""
    stored, now, log, since, expires = None, START, [], {}, math.inf
    for gap, (period, limit), cost in edits:
        now += min(gap, 3_000_000)
        if now > expires:
            stored, since = None, {}
        form = LOG_FORM if limit <= LOG_SIZE else 10
        since.setdefault(period, now)
        charge = 1 if form == LOG_FORM else cost
        outcome = vector.decide(stored, [ask(period, limit, charge, form=form)], now)
        if outcome.vector:
            stored, expires = outcome.vector, now + outcome.expiry_milliseconds * 1000
        if outcome.granted:
            log.append((now, charge))
            begin = max(now - period * 1e6, since[period] - 1)
            assert used_between(log, begin, now) <= limit


@given(EDITS)
def test_whoever_honours_the_returned_wait_gets_in_whatever_the_tier_was_before(edits: list[tuple[int, tuple[int, int], int]]):
    """RL-4, over edits of the tier: a refusal never renews itself."""
    stored, now = None, START
    for gap, (period, limit), _ in edits:
        now += min(gap, 3_000_000)
        one = [ask(period, limit, 1, form=LOG_FORM if limit <= LOG_SIZE else 10)]
        outcome = vector.decide(stored, one, now)
        stored = outcome.vector or stored
        if not outcome.granted:
            now += math.ceil(outcome.readings[0].wait)
            outcome = vector.decide(stored, one, now)
            stored = outcome.vector or stored
            assert outcome.granted


def test_windows_that_the_tier_lacks_are_charged_alike():
    """A period that is edited there and back finds what was granted meanwhile."""
    long, short = [ask(4, 20, 1)], [ask(2, 20, 1)]
    stored = vector.decide(None, long, START, count=10).vector
    stored = vector.decide(stored, short, START, count=10).vector

    assert used(stored, *long) == used(stored, *short) == [20]


def test_limits_of_sixteen_and_seventeen_that_take_turns_lose_nothing():
    """A change of form must not make usage younger with every turn."""
    small, large, stored, granted = [ask(4, 16, 1, form=LOG_FORM)], [ask(4, 17, 1)], None, 0
    for tick in range(48):
        outcome = vector.decide(stored, small if tick % 2 else large, START + tick * 333_000)
        stored = outcome.vector or stored
        granted += outcome.granted

    assert granted == 48


def test_usage_too_large_for_a_narrow_form_is_not_cut_off():
    """A response may be larger than its limit by far, and the limit may be raised later."""
    stored = vector.decide(None, [ask(60, 10**9, 0, 20 * 10**9)], START, count=0).vector
    later = START + 7_000_000

    stored = vector.decide(stored, [ask(60, 10**9, 0, 1)], later, count=0).vector

    assert used(stored, ask(60, 2 * 10**10, 1, form=10 + WIDE), now=later) == [20 * 10**9 + 1]


@pytest.mark.parametrize("form", [10, LOG_FORM])
def test_a_clock_that_goes_back_locks_nobody_out_for_the_length_of_the_step(form: int):
    """What it left ahead counts as if it were now, once."""
    stored, back = charged([ask(1, 1, 1, form=form)]), START - 3_600_000_000
    refused = vector.decide(stored, [ask(1, 1, 1, form=form)], back)
    wait = math.ceil(refused.readings[0].wait)

    assert not refused.granted
    assert wait <= 1_101_000
    assert vector.decide(refused.vector, [ask(1, 1, 1, form=form)], back + wait).granted


def test_of_too_many_windows_an_empty_one_goes_first():
    records = [
        Record(shape, shape.index_at(START), (0,) * 10, period % 7) for period in range(1, 17) for shape in [Shape(REQUESTS, period, 10)]
    ]

    kept = decode(charged([ask(99, 100, 1)], stored=encode(records)), START)

    assert [record.shape.period_seconds for record in kept] == [*range(1, 14), 15, 16, 99]


PERIODS_OF_COST = st.lists(st.integers(2, 3599), min_size=16, max_size=20, unique=True)
LATER_WINDOWS = st.lists(
    st.tuples(st.integers(1, 90) | st.integers(91, 3599), st.sampled_from((REQUESTS, COST)), st.integers(0, 80_000_000)), max_size=40
)


@given(PERIODS_OF_COST, LATER_WINDOWS)
@example(before=list(range(101, 117)), after=[(1, REQUESTS, 5_000_000)] * 12)
def test_no_usage_is_forgotten_however_many_windows_an_identity_had(before, after):
    """RL-14: a tier that is edited for ever, or tiers that take turns. All within an hour, so that every grant counts to its end."""
    stored, now, used = None, START, 0
    for period in before:
        stored = charged([ask(period, 10**6, 1, unit=COST)], stored=stored)
    for period, unit, gap in after:
        hourly = vector.decide(stored, [ask(3600, 10, 1)], now, charges={COST: 1})
        assert hourly.granted == (used < 10)
        stored = hourly.vector or stored
        other = vector.decide(stored, [ask(period, 10**6, 1, unit=unit)], now, charges={REQUESTS: 1, COST: 1})
        stored, used, now = other.vector, used + hourly.granted + other.granted, now + gap


@pytest.mark.parametrize("form", [10, LOG_FORM])
def test_a_clock_that_goes_back_reopens_nothing(form: int):
    stored = charged([ask(1, 1, 1, form=form)])

    assert not vector.decide(stored, [ask(1, 1, 1, form=form)], START - 3_600_000_000).granted


def test_a_request_above_the_limit_never_fits():
    assert vector.decide(None, [ask(60, 10, 11)], START).readings[0].wait == 60_000_000


def test_what_is_not_checked_passes_a_spent_window():
    """A response is charged after the fact (VEC-2), and a request of cost 0 is free."""
    stored = charged([ask(60, 10, 10)])

    assert vector.decide(stored, [ask(60, 10, 0, 900)], START, count=0).readings[0].used == 910


def test_a_window_is_known_by_unit_and_period():
    """Not by its name or limit: a renamed window keeps its usage. Two of one unit and period are told apart."""
    windows = [
        Window("a", 100, 60),
        Window("b", 50, 60),
        Window("c", 100, 60, Unit.COST),
        Window("d", 16, 3600),
        Window("e", 2**40, 86_400),
    ]

    shapes = shapes_of(windows)

    assert [(shape.unit, shape.period_seconds, shape.form) for shape in shapes] == [
        (0, 60, 10), (4, 60, 10), (1, 60, 10), (0, 3600, LOG_FORM), (0, 86_400, 24 + WIDE),
    ]  # fmt: skip
