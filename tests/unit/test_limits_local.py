"""Limits without Redis: a share each, and room made by what no longer counts."""

import pytest

from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits import local
from tidegate.limits.decision import Amounts
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.local import LocalLimiter

TIER = Tier("t", (Window("second", 40, 1),))
START = 1_795_000_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def test_the_shares_of_all_workers_sum_to_the_limit():
    limiters = [LocalLimiter(lambda: 4, clock=lambda: START) for _ in range(4)]

    granted = sum(limiter.decide("a", TIER, Amounts()).granted for limiter in limiters for _ in range(40))

    assert granted == 40


def test_room_is_made_by_identities_whose_usage_has_left(monkeypatch: pytest.MonkeyPatch):
    """A long loss must not lock out whoever comes late, and a short one must refill nobody."""
    monkeypatch.setattr(local, "CAPACITY", 10)
    clock = Clock()
    limiter = LocalLimiter(lambda: 1, clock=clock)
    for number in range(10):
        limiter.decide(str(number), TIER, Amounts())
    with pytest.raises(LimitStoreUnavailableError):
        limiter.decide("late", TIER, Amounts())
    clock.now += 900_000
    with pytest.raises(LimitStoreUnavailableError):
        limiter.decide("late", TIER, Amounts())

    clock.now += 300_000

    assert limiter.decide("late", TIER, Amounts()).granted


def test_looking_for_room_in_vain_is_rare(monkeypatch: pytest.MonkeyPatch):
    """It reads every identity, which takes milliseconds of everybody's time."""
    monkeypatch.setattr(local, "CAPACITY", 10)
    clock = Clock()
    limiter = LocalLimiter(lambda: 1, clock=clock)
    for number in range(10):
        limiter.decide(str(number), TIER, Amounts())
    for clock.now in (START + 150_000, START + 1_120_000):
        with pytest.raises(LimitStoreUnavailableError):
            limiter.decide("late", TIER, Amounts())

    clock.now = START + 150_000 + local.ROOM_SECONDS * 1_000_000

    assert limiter.decide("late", TIER, Amounts()).granted


def test_tiers_that_take_turns_charge_one_another():
    """RL-14: as in Redis."""
    requests, cost = Tier("a", (Window("hour", 3, 3600),)), Tier("b", (Window("work", 99, 3600, Unit.COST),))
    limiter = LocalLimiter(lambda: 1, clock=lambda: START)

    granted = [limiter.decide("a", tier, Amounts()).granted for tier in (requests, cost, cost, requests, requests)]

    assert granted == [True, True, True, False, False]
