"""Start-time fair queueing over identities (Goyal, Vin, Cheng 1996), without I/O and without a clock; called by `seats.py`.

Each identity is a flow. Its next request has a start tag in virtual time, and the least tag is served next: virtual time becomes that tag,
and the flow's tag moves on by cost / weight. So two flows f and g that both wait get service in proportion to their weights, apart by no
more than c_f/w_f + c_g/w_g, whatever others do and however fast the server is. Flows are forgotten once their past does not matter.
"""

from collections import OrderedDict
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Generic, TypeVar

from tidegate.contract.tier import Admission

STANDING_SECONDS = 0.1
"""A flow in which somebody waited all this time is overloaded (the interval of CoDel): from then on its newest goes first, who can still be
served in time, while the oldest run into their deadlines (ACM Queue, "Fail at Scale")."""

SERVED = 1 << 50
"""Of equal tags, those go first whose flow has just come: who asks rarely does not wait for all who ask without end. Tags of flows that
came together stay equal for long, and which of them is first is free to choose (Goyal et al., 2)."""


class Flow:
    """An identity that has requests waiting or running, or was served so lately that its next must come later; made by `FairQueue.flow`."""

    __slots__ = ("admission", "identity", "in_flight", "is_default", "is_listed", "start", "waiting", "waiting_since", "weight_counted")

    def __init__(self, identity: str, admission: Admission, is_default: bool) -> None:
        self.identity = identity
        self.admission = admission
        self.is_default = is_default
        self.in_flight = 0
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.waiting_since = 0.0
        self.start = 0.0
        self.is_listed = False
        self.weight_counted = 0


class Ticket:
    """A request in the queue. `deadline` is the moment from which it is not served any more, on the clock of `now`."""

    __slots__ = ("cost", "deadline", "flow")

    def __init__(self, flow: Flow, cost: int, deadline: float) -> None:
        self.flow = flow
        self.cost = cost
        self.deadline = deadline


T = TypeVar("T", bound=Ticket)


class FairQueue(Generic[T]):
    """Who is next.

    Args:
        default_share: Least share of the service, by cost, that the flows of the default tier have together while one of them waits,
            0 to less than 1. Weights alone would leave it whatever the paying ones' do.
    """

    def __init__(self, default_share: float = 0.0) -> None:
        self.length = 0
        """Tickets that wait."""
        self._flows: dict[str, Flow] = {}
        self._heap: list[tuple[float, int, Flow]] = []
        """One entry for each flow that may be served, now or as soon as it asks; never less than virtual time."""
        self._sequence = count()
        self._virtual = 0.0
        self._busy_since, self._busy_from = 0.0, 0.0
        """When the heap was empty last, and the virtual time of then."""
        self._boost = default_share / (1 - default_share)
        self._weight = [0, 0]
        """Of the flows that compete: those of other tiers, those of the default tier."""

    def __len__(self) -> int:
        """Flows that are not forgotten; 0 when idle."""
        return len(self._flows)

    def flow(self, identity: str, admission: Admission, *, is_default: bool = False) -> Flow:
        """The flow of that identity, held to `admission` from now on."""
        flow = self._flows.get(identity)
        if flow is None:
            flow = self._flows[identity] = Flow(identity, admission, is_default)
        elif flow.admission is not admission:
            flow.admission, is_new_tier = admission, flow.is_default != is_default
            self._compete(flow, is_new_tier=is_new_tier)
            if flow.waiting:
                self._list(flow)  # it may run more at once now
        return flow

    def put(self, ticket: T, now: float) -> bool:
        """Have it wait; False if its flow has as many waiting as it may, or its deadline is over."""
        flow = ticket.flow
        if ticket.deadline <= now or len(flow.waiting) >= flow.admission.queue_max_depth:
            self._forget(flow)
            return False
        self.length += 1
        if not self._heap:
            self._busy_since, self._busy_from = now, self._virtual
        is_first = not flow.waiting
        flow.waiting[ticket] = None
        if is_first:
            flow.waiting_since = now
            self._list(flow)
        return True

    def pop(self, now: float) -> T | None:
        """The next to be served, which then is in flight; None if there is none that may. Whoever is past its deadline is dropped."""
        heap = self._heap
        while heap:
            start, _, flow = heap[0]
            self._virtual = start
            if not flow.waiting or flow.in_flight >= flow.admission.max_in_flight:
                self._unlist(flow)
                continue
            ticket, _ = flow.waiting.popitem(last=now - flow.waiting_since > STANDING_SECONDS)
            self.length -= 1
            if ticket.deadline > now:
                flow.in_flight += 1
                flow.start = start + ticket.cost / self._rate(flow)
                heapreplace(heap, (flow.start, SERVED + next(self._sequence), flow))
            if not flow.waiting:
                self._compete(flow)
            if ticket.deadline > now:
                return ticket  # type: ignore[return-value]  # `put` takes no others
        return None

    def withdraw(self, ticket: T) -> None:
        """Have it wait no more; nothing happens if it does not."""
        flow = ticket.flow
        if ticket in flow.waiting:
            del flow.waiting[ticket]
            self.length -= 1
            if not flow.waiting:
                self._compete(flow)
                self._forget(flow)

    def tickets(self) -> list[T]:
        """All that wait, in no order."""
        return [ticket for flow in self._flows.values() for ticket in flow.waiting]  # type: ignore[misc]  # `put` takes no others

    def end(self, flow: Flow) -> None:
        """A request of it runs no more."""
        flow.in_flight -= 1
        if flow.waiting:
            self._list(flow)
        elif not flow.in_flight:
            self._forget(flow)

    def wait_seconds(self, flow: Flow, cost: int, now: float) -> float | None:
        """About how long another request of that cost would wait, at the pace of virtual time since it filled; None: nobody knows."""
        pace = (self._virtual - self._busy_from) / (now - self._busy_since) if now > self._busy_since else 0.0
        if pace <= 0:
            return None
        # Each of the flow's own before it is taken to cost as much.
        return (max(0.0, flow.start - self._virtual) + len(flow.waiting) * cost / self._rate(flow)) / pace

    def _list(self, flow: Flow) -> None:
        if not flow.is_listed and flow.in_flight < flow.admission.max_in_flight:
            flow.is_listed = True
            flow.start = max(flow.start, self._virtual)
            heappush(self._heap, (flow.start, next(self._sequence), flow))
        self._compete(flow)

    def _unlist(self, flow: Flow) -> None:
        heappop(self._heap)
        flow.is_listed = False
        self._compete(flow)
        self._forget(flow)

    def _forget(self, flow: Flow) -> None:
        if not (flow.is_listed or flow.in_flight or flow.waiting):
            self._flows.pop(flow.identity, None)
            if not self._flows:
                self._virtual = 0.0

    def _compete(self, flow: Flow, *, is_new_tier: bool = False) -> None:
        """Count the weight of a flow while it waits and may be served."""
        weight = flow.admission.weight if flow.is_listed and flow.waiting else 0
        if is_new_tier:
            self._weight[flow.is_default] -= flow.weight_counted
            flow.is_default, flow.weight_counted = not flow.is_default, 0
        self._weight[flow.is_default] += weight - flow.weight_counted
        flow.weight_counted = weight

    def _rate(self, flow: Flow) -> float:
        weight = flow.admission.weight
        if flow.is_default and (own := self._weight[True]):
            # As much as it takes to bring the tier's flows to their share of all that compete.
            return weight * max(1.0, self._boost * self._weight[False] / own)
        return weight
