"""How many seats a worker learns to have, on a simulated server and clock."""

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.admission.gradient import PROBE_SECONDS, WINDOW_SAMPLES, WINDOW_SECONDS, GradientSeats

Chance = Callable[[], float]


def load(
    gradient: GradientSeats, *, capacity: int, idle_seconds: float, until: float, now: float = 0.0, chance: Chance = lambda: 1.0
) -> float:
    """A server that does `capacity` requests in the time of one, and shares that among more; all seats are always taken.

    One takes `idle_seconds` by `chance`, which is 1 on average.
    """
    ends: list[tuple[float, float]] = []
    while now < until:
        while len(ends) < gradient.seats:
            seconds = idle_seconds * chance() * max(1.0, (len(ends) + 1) / capacity)
            heapq.heappush(ends, (now + seconds, seconds))
        now, seconds = heapq.heappop(ends)
        gradient.observe(seconds, len(ends) + 1, now)
    return now


@pytest.mark.parametrize("capacity", [8, 40, 150])
@pytest.mark.parametrize("idle_seconds", [0.002, 0.05])
def test_the_seats_come_to_what_the_server_can_do_at_once(capacity: int, idle_seconds: float):
    gradient = GradientSeats(3, 1_000)

    load(gradient, capacity=capacity, idle_seconds=idle_seconds, until=6.0)

    assert 0.8 * capacity <= gradient.seats <= 1.5 * capacity + 2 * capacity**0.5 + 3


@pytest.mark.parametrize("spread", ["exponential", "log-normal"])
@pytest.mark.parametrize("capacity", [40, 150])
def test_they_come_to_it_also_where_handlers_take_very_different_times(capacity: int, spread: str):
    """The latency without load is a guess from a few requests, and a guess too low must not cost most of the seats."""
    found = []
    for seed in range(10):
        source = random.Random(seed)
        chance = (lambda: source.expovariate(1)) if spread == "exponential" else (lambda: source.lognormvariate(-0.5, 1))  # noqa: B023
        gradient = GradientSeats(3, 1_000)
        load(gradient, capacity=capacity, idle_seconds=0.05, until=12.0, chance=chance)
        found.append(gradient.seats)

    assert sum(seats >= 0.7 * capacity for seats in found) >= 8, found
    assert all(seats <= 2.2 * capacity for seats in found), found


def test_the_seats_follow_a_server_that_loses_and_regains_capacity():
    gradient = GradientSeats(3, 1_000)
    now = load(gradient, capacity=100, idle_seconds=0.01, until=20.0)

    now = load(gradient, capacity=20, idle_seconds=0.01, until=now + 20, now=now)
    fallen = gradient.seats
    load(gradient, capacity=100, idle_seconds=0.01, until=now + 20, now=now)

    assert fallen <= 40
    assert gradient.seats >= 80


def test_a_server_that_became_slower_for_everybody_keeps_its_seats_after_the_next_probe():
    """Latency without load is measured anew, or what is usual now would look like load for ever."""
    gradient = GradientSeats(3, 1_000)
    now = load(gradient, capacity=50, idle_seconds=0.01, until=20.0)

    load(gradient, capacity=50, idle_seconds=0.04, until=now + 2 * PROBE_SECONDS, now=now)

    assert gradient.seats >= 40


def test_seats_that_nobody_needs_are_not_added():
    gradient = GradientSeats(4, 1_000)

    for number in range(20_000):
        gradient.observe(0.01, 2, number * 0.001)

    assert gradient.seats <= 6


@settings(max_examples=50)
@given(
    bounds=st.tuples(st.integers(1, 20), st.integers(0, 200)),
    samples=st.lists(st.tuples(st.floats(1e-6, 100), st.integers(1, 300)), min_size=1, max_size=50),
)
def test_the_seats_stay_within_their_bounds(bounds: tuple[int, int], samples: list[tuple[float, int]]):
    least, most = bounds[0], sum(bounds)
    gradient = GradientSeats(least, most)
    now = 0.0

    for seconds, taken in samples:
        for _ in range(WINDOW_SAMPLES):
            now += WINDOW_SECONDS / (WINDOW_SAMPLES - 1)
            gradient.observe(seconds, taken, now)
            assert least <= gradient.seats <= most
