"""The RateLimit fields, read back by an independent RFC 9651 parser."""

import http_sf
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.tier import MAXIMUM_LIMIT, Unit, Window
from tidegate.limits.decision import Decision, WindowState
from tidegate.limits.fields import LimitField, policy_field, refusal_headers

WINDOWS = st.lists(
    st.builds(
        Window,
        st.from_regex(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True),
        st.integers(1, MAXIMUM_LIMIT),
        st.integers(1, 744 * 3600),
        st.sampled_from(Unit),
    ),
    min_size=1,
    max_size=8,
    # Windows of one unit and period count the same, so no two states of them differ; they have a test of their own.
    unique_by=(lambda window: window.name, lambda window: (window.unit, window.period_seconds)),
)
STATES = WINDOWS.flatmap(
    lambda windows: st.tuples(
        *(st.builds(WindowState, st.just(window), st.integers(0, MAXIMUM_LIMIT), st.floats(0, 3e6)) for window in windows)
    )
)


def parse(text: str) -> list[tuple[str, dict[str, object]]]:
    items = http_sf.parse(text.encode(), tltype="list")
    assert http_sf.ser(items) == text
    return items


@given(WINDOWS)
def test_the_policy_is_a_list_of_named_quotas(windows: list[Window]):
    """RL-1, RL-3."""
    items = parse(policy_field(windows))

    assert [name for name, _ in items] == [window.name for window in windows]
    assert [parameters["w"] for _, parameters in items] == [window.period_seconds for window in windows]
    assert all(0 < parameters["q"] < 10**15 for _, parameters in items)


@given(STATES)
def test_no_window_offers_more_than_it_or_a_shorter_one_has_left(states: tuple[WindowState, ...]):
    """RL-2, RL-3, RL-6."""
    items = parse(LimitField([state.window for state in states]).text(states))

    for (name, parameters), state in zip(items, states, strict=True):
        shorter = [s for s in states if s.window.unit is state.window.unit and s.window.period_seconds <= state.window.period_seconds]
        assert name == state.window.name
        assert all(0 <= parameters["r"] <= s.remaining for s in shorter)
        assert state.reset_seconds <= parameters["t"] <= state.reset_seconds + 1


def test_of_two_windows_of_one_period_neither_offers_more_than_the_smaller_has_left():
    """RL-6."""
    windows = [Window(name, limit, 60, Unit.REQUESTS) for name, limit in (("wide", 9), ("narrow", 5))]

    items = parse(LimitField(windows).text([WindowState(window, 4, 1.0) for window in windows]))

    assert [parameters["r"] for _, parameters in items] == [1, 1]


@given(STATES, st.floats(0, 3e6))
def test_a_refusal_names_the_violated_windows_and_a_wait_of_at_least_theirs(states: tuple[WindowState, ...], longer: float):
    """RL-4."""
    violated = states[::2]
    wait = max(state.reset_seconds for state in violated) + longer

    headers = refusal_headers(Decision(False, lambda: states, tuple(state.window.name for state in violated), wait))
    items = parse(headers["RateLimit"])

    assert [(name, parameters["r"]) for name, parameters in items] == [(s.window.name, min(s.remaining, 10**15 - 1)) for s in violated]
    assert max(parameters["t"] for _, parameters in items) <= int(headers["Retry-After"]) <= 1.1 * wait + 1
    assert len(parse(headers["RateLimit-Policy"])) == len(states)


def test_the_fields_of_a_tier_read_as_the_draft_writes_them():
    burst, egress = Window("burst", 200, 1), Window("egress", 10_000, 60, Unit.RESPONSE_BYTES)
    minute, work = Window("minute", 6000, 60), Window("work", 50, 3600, Unit.COST)
    states = [WindowState(burst, 195, 0.2), WindowState(minute, 700, 6.5), WindowState(egress, 0, 0.0), WindowState(work, 60, 360.0)]

    assert policy_field([burst, minute, egress, work]) == (
        '"burst";q=200;w=1, "minute";q=6000;w=60, "egress";q=10000;w=60;qu="content-bytes", "work";q=50;w=3600;qu="tidegate-cost"'
    )
    assert (
        LimitField([state.window for state in states]).text(states)
        == '"burst";r=5;t=1, "minute";r=5;t=7, "egress";r=10000;t=0, "work";r=0;t=360'
    )
