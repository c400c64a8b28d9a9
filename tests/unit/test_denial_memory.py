"""What is refused without asking, and that it would have been refused by asking: against the model of the script."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.tier import Tier, Window
from tidegate.limits import vector
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.denial_memory import CAPACITY, LONGEST_SECONDS, DenialMemory
from tidegate.limits.policy import policy_of
from tidegate.limits.shape import shapes_of
from tidegate.limits.vector import Ask

START = 1_795_000_000_000_000
TIERS = [Tier("t", (Window("second", 3, 1), Window("minute", limit, 60))) for limit in (20, 40)]
LATENCY = 300
"""Microseconds from this worker's clock reading before a question to the script's clock reading."""


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def ask_script(stored: bytes | None, tier: Tier, cost: int, now: int) -> vector.Outcome:
    pairs = zip(shapes_of(tier.windows), tier.windows, strict=True)
    return vector.decide(stored, [Ask(shape, window.limit, 1, 1) for shape, window in pairs], now)


@given(st.lists(st.tuples(st.sampled_from((0, 1, 90_000, 100_000, 400_000, 1_000_000)), st.integers(0, 1), st.booleans()), max_size=80))
def test_only_what_the_script_could_not_have_granted_is_refused(history: list[tuple[int, int, bool]]):
    """Exact: with charges of other workers in between, a changed tier, and any latency of the answer."""
    clock = Clock()
    memory, stored, now = DenialMemory(clock), None, START
    for gap, tier_number, is_other_worker in history:
        now += gap
        tier = TIERS[tier_number]
        outcome = ask_script(stored, tier, 1, now + LATENCY)
        if not is_other_worker:
            clock.now = now / 1e6
            local = memory.recall("k", policy_of(tier), Amounts())
            assert local is None or not outcome.granted
            if local is None and not outcome.granted:
                waits = max(reading.wait for reading in outcome.readings) / 1e6
                memory.remember("k", policy_of(tier), Amounts(), Decision(False, tuple, ("second",), waits), asked_at=now / 1e6)
            if local is not None:
                continue
        stored = outcome.vector or stored


def refusal(seconds: float) -> Decision:
    return Decision(False, lambda: (WindowState(TIERS[0].windows[0], 3, seconds),), ("second",), seconds)


def test_a_remembered_refusal_counts_down():
    clock = Clock()
    memory, policy = DenialMemory(clock), policy_of(TIERS[0])
    memory.remember("k", policy, Amounts(), refusal(0.5), asked_at=10.0)

    clock.now = 10.2
    recalled = memory.recall("k", policy, Amounts())

    assert recalled is not None
    assert round(recalled.retry_after_seconds, 6) == round(recalled.windows[0].reset_seconds, 6) == 0.3
    clock.now = 10.5
    assert memory.recall("k", policy, Amounts()) is None


def test_another_request_is_asked_about():
    clock = Clock()
    memory, policy = DenialMemory(clock), policy_of(TIERS[0])
    memory.remember("k", policy, Amounts(cost=5), refusal(0.5), asked_at=10.0)

    clock.now = 10.1
    assert memory.recall("k", policy, Amounts(cost=1)) is None
    clock.now = 10.1
    assert memory.recall("j", policy, Amounts(cost=5)) is None
    clock.now = 10.1
    assert memory.recall("k", policy_of(TIERS[1]), Amounts(cost=5)) is None


def test_a_refusal_of_hours_is_asked_about_every_second():
    """A vector that was deleted by hand lets its customer in within this time."""
    clock = Clock()
    memory, policy = DenialMemory(clock), policy_of(TIERS[0])
    memory.remember("k", policy, Amounts(), refusal(7200), asked_at=10.0)

    clock.now = 10.0 + LONGEST_SECONDS - 0.01
    assert memory.recall("k", policy, Amounts())
    clock.now = 10.0 + LONGEST_SECONDS
    assert memory.recall("k", policy, Amounts()) is None


def test_the_memory_is_bounded():
    clock = Clock()
    memory, policy = DenialMemory(clock), policy_of(TIERS[0])
    for number in range(CAPACITY + 10):
        memory.remember(str(number), policy, Amounts(), refusal(0.5), asked_at=10.0)

    assert len(memory._denials) <= CAPACITY
