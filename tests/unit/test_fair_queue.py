"""Who is served next, without a server and without a clock."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidegate.admission.fair_queue import STANDING_SECONDS, FairQueue, Flow, Ticket
from tidegate.contract.tier import Admission

DEEP = Admission(queue_max_depth=10_000, max_in_flight=10_000)
FOREVER = 1e9
COSTS = st.integers(1, 50)
WEIGHTS = st.integers(1, 1000)


def weighing(weight: int) -> Admission:
    return replace(DEEP, weight=weight)


def fill(queue: FairQueue[Ticket], flow: Flow, costs: Iterable[int], now: float = 0.0) -> None:
    for cost in costs:
        assert queue.put(Ticket(flow, cost, FOREVER), now)


def serve(queue: FairQueue[Ticket], times: int, now: float = 0.0) -> list[Ticket]:
    served = [queue.pop(now) for _ in range(times)]
    return [ticket for ticket in served if ticket is not None]


@given(weights=st.tuples(WEIGHTS, WEIGHTS), costs=st.tuples(*[st.lists(COSTS, min_size=60, max_size=60)] * 2), begin=st.integers(0, 20))
def test_two_flows_that_wait_are_apart_by_no_more_than_one_request_of_each(
    weights: tuple[int, int], costs: tuple[list[int], list[int]], begin: int
):
    """|S_f/w_f - S_g/w_g| <= c_f/w_f + c_g/w_g over every interval in which both wait (Goyal et al., theorem 1)."""
    queue: FairQueue[Ticket] = FairQueue()
    flows = [queue.flow(name, weighing(weight)) for name, weight in zip("fg", weights, strict=True)]
    fill(queue, flows[0], costs[0])
    head_start = serve(queue, begin)  # the interval may begin anywhere
    fill(queue, flows[1], costs[1])
    service, bound = [0.0, 0.0], sum(max(cost) / weight for cost, weight in zip(costs, weights, strict=True))

    while all(flow.waiting for flow in flows):
        (ticket,) = serve(queue, 1)
        at = flows.index(ticket.flow)
        service[at] += ticket.cost / weights[at]

        assert abs(service[0] - service[1]) <= bound + 1e-9
    assert len(head_start) == begin


@st.composite
def patterns(draw: st.DrawFn) -> list[int]:
    """How many requests of each flow arrive before each service: any at all, and the test keeps everybody waiting."""
    return draw(st.lists(st.integers(0, 5), min_size=1, max_size=40))


@settings(max_examples=30)
@given(weights=st.lists(st.integers(1, 20), min_size=2, max_size=6), arrivals=st.lists(patterns(), min_size=6, max_size=6))
def test_shares_are_weights_within_a_tenth_however_requests_arrive(weights: list[int], arrivals: list[list[int]]):
    queue: FairQueue[Ticket] = FairQueue()
    flows = [queue.flow(str(number), weighing(weight)) for number, weight in enumerate(weights)]
    served: Counter[str] = Counter()
    turns = 20 * sum(weights)

    for turn in range(turns):
        for flow, pattern in zip(flows, arrivals, strict=False):
            fill(queue, flow, [1] * max(not flow.waiting, pattern[turn % len(pattern)] if len(flow.waiting) < 50 else 0))
        served.update(ticket.flow.identity for ticket in serve(queue, 1))

    for flow, weight in zip(flows, weights, strict=True):
        assert served[flow.identity] == pytest.approx(turns * weight / sum(weights), rel=0.1)


@settings(max_examples=30)
@given(
    share=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    own=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    others=st.lists(st.integers(1, 200), min_size=1, max_size=8),
)
def test_the_default_tier_has_its_share_whatever_the_others_weigh(share: float, own: list[int], others: list[int]):
    queue: FairQueue[Ticket] = FairQueue(share)
    flows = [queue.flow(f"default-{number}", weighing(weight), is_default=True) for number, weight in enumerate(own)]
    flows += [queue.flow(f"other-{number}", weighing(weight)) for number, weight in enumerate(others)]
    for flow in flows:
        fill(queue, flow, [1] * 500)

    served = serve(queue, 500)

    of_default = sum(ticket.flow.identity.startswith("default") for ticket in served)
    assert of_default >= 500 * max(share, sum(own) / (sum(own) + sum(others))) - len(flows)
    assert of_default <= 500 * max(share, sum(own) / (sum(own) + sum(others))) + len(flows)


def serve_in_turns(queue: FairQueue[Ticket], flows: dict[str, int], share_of: str, turns: int = 2_000) -> float:
    """The share of those whose name begins so, where each asks so many at once, and anew some turns after it was served."""
    coming: dict[int, list[str]] = {0: [name for name, at_once in flows.items() for _ in range(at_once)]}
    served: Counter[str] = Counter()
    for turn in range(turns):
        for name in coming.pop(turn, []):
            flow = queue.flow(name, WEIGHTED[name.partition("-")[0]], is_default=name.startswith("free"))
            assert queue.put(Ticket(flow, 1, FOREVER), 0.0)
        for ticket in serve(queue, 1):
            served[ticket.flow.identity.partition("-")[0]] += turn >= turns // 4
            queue.end(ticket.flow)
            coming.setdefault(turn + 10, []).append(ticket.flow.identity)
    return served[share_of] / served.total()


WEIGHTED = {"free": weighing(1), "pro": weighing(10)}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("at_once", [1, 40])
def test_the_default_tier_has_its_share_also_of_many_who_ask_one_at_a_time(share: float, at_once: int):
    """Of whom each is next whenever it comes."""
    flows = {"free-0": 200} | {f"pro-{number}": at_once for number in range(200)}

    assert serve_in_turns(FairQueue(share), flows, "free") == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_default_tier_has_no_more_where_its_own_ask_one_at_a_time(share: float):
    flows = {f"free-{number}": 1 for number in range(60)} | {f"pro-{number}": 50 for number in range(200)}

    assert serve_in_turns(FairQueue(share), flows, "free") == pytest.approx(share, rel=0.05)


def test_an_identity_gains_nothing_by_changing_its_tier():
    """Tokens of one tenant may name two tiers."""
    queue: FairQueue[Ticket] = FairQueue(0.5)
    for name in ("a", "b"):
        fill(queue, queue.flow(f"pro-{name}", weighing(1)), [1] * 400)
        fill(queue, queue.flow(f"free-{name}", weighing(1), is_default=True), [1] * 400)
    served: Counter[str] = Counter()
    for turn in range(600):
        flow = queue.flow("both", weighing(1), is_default=turn % 2 == 0)
        if not flow.waiting:
            fill(queue, flow, [1])
        for ticket in serve(queue, 1):
            served[ticket.flow.identity] += 1
            queue.end(ticket.flow)

    assert served["both"] <= 1.2 * 600 / 5


def test_a_weight_of_1_beside_a_hundred_of_1000_is_served():
    queue: FairQueue[Ticket] = FairQueue()
    fill(queue, queue.flow("small", weighing(1)), [1])
    for number in range(100):
        fill(queue, queue.flow(f"large-{number}", weighing(1000)), [1] * 1_001)

    assert "small" in {ticket.flow.identity for ticket in serve(queue, 101)}


def test_who_asks_rarely_is_next_although_many_wait_whose_turn_is_as_near():
    queue: FairQueue[Ticket] = FairQueue()
    for number in range(50):
        fill(queue, queue.flow(f"busy-{number}", weighing(1)), [1] * 9)
    serve(queue, 120)
    fill(queue, queue.flow("rare", weighing(1)), [1])

    assert [ticket.flow.identity for ticket in serve(queue, 1)] == ["rare"]


def test_whoever_was_served_dearly_waits_for_the_others():
    queue: FairQueue[Ticket] = FairQueue()
    fill(queue, queue.flow("dear", weighing(1)), [10, 1])
    fill(queue, queue.flow("cheap", weighing(1)), [1] * 12)

    order = [ticket.flow.identity for ticket in serve(queue, 14)]

    assert order == ["dear", *["cheap"] * 10, "dear", "cheap", "cheap"]


def test_an_identity_gains_nothing_by_coming_one_at_a_time():
    """Its past is remembered for as long as it matters."""
    queue: FairQueue[Ticket] = FairQueue()
    fill(queue, queue.flow("always", weighing(1)), [1] * 100)
    served = []
    for _ in range(60):
        flow = queue.flow("one at a time", weighing(1))
        if not flow.waiting:
            fill(queue, flow, [1])
        served += serve(queue, 1)

    assert Counter(ticket.flow.identity for ticket in served) == {"always": 30, "one at a time": 30}


def test_an_identity_is_served_in_order_and_newest_first_once_it_has_waited_for_long():
    queue: FairQueue[Ticket] = FairQueue()
    flow = queue.flow("a", DEEP)
    fill(queue, flow, [1, 2, 3, 4])

    in_order = [ticket.cost for ticket in serve(queue, 2, STANDING_SECONDS)]
    newest_first = [ticket.cost for ticket in serve(queue, 2, STANDING_SECONDS + 0.001)]

    assert (in_order, newest_first) == ([1, 2], [4, 3])


def test_a_queue_that_was_empty_for_a_moment_is_not_overloaded():
    queue: FairQueue[Ticket] = FairQueue()
    fill(queue, queue.flow("a", DEEP), [1])
    serve(queue, 1, now=5.0)
    fill(queue, queue.flow("a", DEEP), [1, 2], now=5.0)

    assert [ticket.cost for ticket in serve(queue, 2, 5.05)] == [1, 2]


def test_an_identity_over_its_maximum_in_flight_is_passed_over_until_one_of_its_own_ends():
    queue: FairQueue[Ticket] = FairQueue()
    narrow = queue.flow("narrow", replace(DEEP, max_in_flight=2, weight=1000))
    fill(queue, narrow, [1] * 4)
    fill(queue, queue.flow("wide", DEEP), [1] * 2)

    assert sorted(ticket.flow.identity for ticket in serve(queue, 9)) == ["narrow", "narrow", "wide", "wide"]
    queue.end(narrow)
    assert [ticket.flow.identity for ticket in serve(queue, 9)] == ["narrow"]


def test_an_edited_tier_counts_at_once_also_for_those_who_wait():
    queue: FairQueue[Ticket] = FairQueue(0.5)
    for name, is_default in (("a", True), ("b", False)):
        fill(queue, queue.flow(name, weighing(1), is_default=is_default), [1] * 300)
    queue.flow("b", weighing(9))
    queue.flow("a", weighing(1), is_default=False)

    assert Counter(ticket.flow.identity for ticket in serve(queue, 100))["b"] == pytest.approx(90, abs=2)


@pytest.mark.parametrize(("depth", "deadline"), [(0, 5.0), (1, 0.0), (1, -1.0)])
def test_a_queue_of_no_depth_or_no_time_takes_nobody(depth: int, deadline: float):
    queue: FairQueue[Ticket] = FairQueue()
    flow = queue.flow("a", replace(DEEP, queue_max_depth=depth))

    assert not queue.put(Ticket(flow, 1, deadline), 0.0)
    assert (len(queue), queue.length) == (0, 0)


def test_the_wait_is_foretold_from_the_pace_of_virtual_time():
    """One identity, ten a second: whoever comes behind five waits for half a second."""
    queue: FairQueue[Ticket] = FairQueue()
    flow = queue.flow("a", weighing(4))
    assert queue.wait_seconds(flow, 1, 0.0) is None
    fill(queue, flow, [1] * 16)
    for number in range(11):
        serve(queue, 1, number / 10)

    assert queue.wait_seconds(flow, 1, 1.0) == pytest.approx(0.6, abs=0.01)


class Arrivals(RuleBasedStateMachine):
    """Any order of arrivals, departures, services and ends, on a clock that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Ticket] = FairQueue(0.1)
        self.now = 0.0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []

    @rule(
        name=st.sampled_from("abcd"),
        weight=st.sampled_from([1, 7, 1000]),
        depth=st.integers(0, 3),
        most=st.integers(1, 3),
        cost=COSTS,
        patience=st.sampled_from([0.0, 0.05, 5.0]),
        is_default=st.booleans(),
    )
    def arrive(self, name: str, weight: int, depth: int, most: int, cost: int, patience: float, *, is_default: bool) -> None:
        admission = Admission(weight=weight, max_in_flight=most, queue_max_depth=depth)
        ticket = Ticket(self.queue.flow(name, admission, is_default=is_default), cost, self.now + patience)
        if self.queue.put(ticket, self.now):
            self.waiting.append(ticket)
            assert sum(other.flow.identity == name for other in self.waiting) <= depth

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.queue.withdraw(ticket)
        self.queue.withdraw(ticket)

    @rule()
    def pop(self) -> None:
        may_run = {t.flow.identity for t in self.waiting if t.deadline > self.now and t.flow.in_flight < t.flow.admission.max_in_flight}
        before = [*self.waiting]
        ticket = self.queue.pop(self.now)
        if ticket is None:
            assert not may_run
        else:
            assert ticket.deadline > self.now
            assert ticket.flow.identity in may_run
            own = [other for other in before if other.flow is ticket.flow and other.deadline > self.now]
            assert ticket in (own[0], own[-1])
            self.running.append(ticket)
        self.waiting = [other for other in self.waiting if other in other.flow.waiting]
        assert all(other is ticket or other.deadline <= self.now for other in before if other not in self.waiting)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        self.queue.end(ticket.flow)

    @rule(seconds=st.sampled_from([0.001, 0.04, 0.2, 6.0]))
    def go_on(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.length == len(self.waiting)
        assert all(flow.in_flight <= 3 for flow in {ticket.flow for ticket in self.running})

    def teardown(self) -> None:
        """Whatever happened: once everybody is served or gone, nothing is left, and the next identity starts like the first."""
        self.now += 10
        while self.running or self.waiting:
            self.pop()
            if self.running:
                self.queue.end(self.running.pop().flow)
        assert self.queue.pop(self.now) is None
        assert len(self.queue) == 0
        assert (self.queue._others.weight, self.queue._default.weight) == (0, 0)
        assert self.queue._virtual == 0.0


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(max_examples=60, stateful_step_count=30)
