"""Limits without Redis: a share each, and room made by what no longer counts."""

import pytest

from tidegate.contract.tier import Tier, Window
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

    clock.now += 1_200_000

    assert limiter.decide("late", TIER, Amounts()).granted
