"""Who waits, who goes out with whom, and in which order; without Redis."""

from collections.abc import Sequence
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.group_commit import BATCH_MICROSECONDS, BATCHES_IN_FLIGHT, GroupCommit, Run
from tidegate.limits.policy import policy_of

TIERS = [Tier.from_spec(name, {"windows": [{"name": "minute", "limit": 9, "period": "1m"}]}) for name in ("free", "pro")]
POLICIES = [policy_of(tier) for tier in TIERS]


class Waiter:
    """A caller that may leave."""

    numbers = count()

    def __init__(self) -> None:
        self.number = next(self.numbers)
        self.has_left = False

    def cancelled(self) -> bool:
        return self.has_left


class Gathering(RuleBasedStateMachine):
    """Any order of arrivals, departures, batches, landings and losses."""

    waiters = Bundle("waiters")

    def __init__(self) -> None:
        super().__init__()
        self.commit: GroupCommit[Waiter] = GroupCommit()
        self.expected: dict[str, list[tuple[Waiter, object, Amounts]]] = {}
        self.in_flight = 0

    @rule(target=waiters, key=st.sampled_from("abc"), policy=st.sampled_from(POLICIES), cost=st.integers(1, 2))
    def arrive(self, key: str, policy: object, cost: int) -> Waiter:
        waiter = Waiter()
        self.commit.add((key,), policy, Amounts(cost), waiter)
        self.expected.setdefault(key, []).append((waiter, policy, Amounts(cost)))
        return waiter

    @rule(waiter=waiters)
    def leave(self, waiter: Waiter) -> None:
        waiter.has_left = True

    @rule()
    def take(self) -> None:
        batch = self.commit.take()
        if self.in_flight == BATCHES_IN_FLIGHT:
            assert batch == []
            return
        self.in_flight += bool(batch)
        for key, found in by_key(batch).items():
            there = [entry for entry in self.expected[key] if not entry[0].has_left]
            assert found == there, "everyone who still waits goes out, in the order of arrival, with what they asked"
            self.expected[key] = []
        assert not any(not waiter.has_left for waiters in self.expected.values() for waiter, *_ in waiters), "nobody is left behind"
        self.expected.clear()

    @rule()
    def land(self) -> None:
        if self.in_flight:
            self.in_flight -= 1
            self.commit.land()

    @rule()
    def drain(self) -> None:
        drained = by_key(self.commit.drain())
        assert {key: found for key, found in self.expected.items() if found} == drained
        self.expected.clear()


def by_key(batch: Sequence[Run[Waiter]]) -> dict[str, list[tuple[Waiter, object, Amounts]]]:
    found: dict[str, list[tuple[Waiter, object, Amounts]]] = {}
    for run in batch:
        assert run.callers, "an empty run costs Redis for nobody"
        found.setdefault(run.tids[0], []).extend((caller, run.policy, run.amounts) for caller in run.callers)
    return found


TestGathering = Gathering.TestCase
TestGathering.settings = settings(max_examples=100, deadline=None)


def test_equal_requests_that_follow_one_another_are_one_run():
    commit: GroupCommit[Waiter] = GroupCommit()
    for cost in (1, 1, 2, 1):
        commit.add(("a",), POLICIES[0], Amounts(cost), Waiter())
        commit.add(("b",), POLICIES[0], Amounts(1), Waiter())

    runs = [(run.tids[0], run.amounts.cost, len(run.callers)) for run in commit.take()]

    assert sorted(runs) == [("a", 1, 1), ("a", 1, 2), ("a", 2, 1), ("b", 1, 4)]


def test_charges_after_the_fact_add_up_and_are_due_though_nobody_waits():
    commit: GroupCommit[Waiter] = GroupCommit()
    for size in (100, 20, 3):
        waiter = Waiter()
        commit.add(("a",), POLICIES[0], Amounts(response_bytes=size), waiter)
        waiter.has_left = True

    (run,) = commit.take()

    assert run.amounts.response_bytes == 123


def test_what_was_not_decided_goes_out_before_all_others_in_its_order():
    commit: GroupCommit[Waiter] = GroupCommit()
    for name in "abc":
        commit.add((name,), POLICIES[0], Amounts(), Waiter())
    batch = commit.take()
    for name in "bd":
        commit.add((name,), POLICIES[0], Amounts(), Waiter())

    commit.put_back(batch[1:])
    commit.land()

    assert [run.tids[0] for run in commit.take()] == ["b", "c", "b", "d"]


def test_whoever_has_waited_too_long_is_told_apart():
    commit: GroupCommit[Waiter] = GroupCommit()
    for at in (1.0, 2.0, 3.0):
        commit.add((str(at),), POLICIES[0], Amounts(), Waiter(), now=at)

    overdue = [run.tids[0] for run in commit.drain_older(2.5)]

    assert overdue == ["1.0", "2.0"]
    assert [run.tids[0] for run in commit.take()] == ["3.0"]


@given(st.integers(1, 400))
def test_a_batch_is_bounded_and_the_rest_follows(identities: int):
    """Redis must not be held for a millisecond."""
    commit: GroupCommit[Waiter] = GroupCommit()
    for number in range(identities):
        commit.add((str(number),), POLICIES[0], Amounts(), Waiter())

    sizes = []
    while batch := commit.take():
        sizes.append(len(batch))
        commit.land()

    assert max(sizes) <= BATCH_MICROSECONDS / 8 + 1
    assert sum(sizes) == identities
