"""Start-time fair queueing over identities (Goyal, Vin, Cheng 1996), without I/O and without a clock; called by `seats.py`.

Each identity is a flow. Its next request has a start tag in virtual time, and the least tag is served next: virtual time becomes that tag,
and the flow's tag moves on by cost / weight. So two flows f and g of a group that both wait get service in proportion to their weights,
apart by no more than c_f/w_f + c_g/w_g, whatever others do and however fast the server is. Flows are forgotten once their past is past.

The flows of the default tier are a group, and all others are one; each has its own virtual time, and between the two the same rule decides
(hierarchical, as in the paper's section 3), so that the default tier's least share holds whatever flows there are, and however they come.
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

    __slots__ = ("admission", "entry", "group", "identity", "in_flight", "start", "waiting", "waiting_since", "weight_counted")

    def __init__(self, identity: str, admission: Admission, group: "Group") -> None:
        self.identity = identity
        self.admission = admission
        self.group = group
        self.in_flight = 0
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.waiting_since = 0.0
        self.start = 0.0
        self.entry = 0
        """Number of its entry in the heap of its group, 0 if it has none."""
        self.weight_counted = 0


class Ticket:
    """A request in the queue. `deadline` is the moment from which it is not served any more, on the clock of `now`."""

    __slots__ = ("cost", "deadline", "flow")

    def __init__(self, flow: Flow, cost: int, deadline: float) -> None:
        self.flow = flow
        self.cost = cost
        self.deadline = deadline


class Group:
    """Flows that share what their group gets by their weights."""

    __slots__ = ("busy_from", "busy_since", "heap", "start", "virtual", "weight")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Flow]] = []
        """An entry of each flow that may be served now or once it asks, never less than virtual time, and some of flows that left."""
        self.virtual = 0.0
        self.start = 0.0
        """The group's own start tag."""
        self.weight = 0
        """Of the flows that compete."""
        self.busy_since, self.busy_from = 0.0, 0.0
        """When the heap was empty last, and the virtual time of then."""


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
        self._default_share = default_share
        self._flows: dict[str, Flow] = {}
        self._entries = count(1)
        self._others, self._default = Group(), Group()
        self._virtual = 0.0
        """Between the groups: the start tag of the one that was served last."""

    def __len__(self) -> int:
        """Flows that are not forgotten; 0 when idle."""
        return len(self._flows)

    def flow(self, identity: str, admission: Admission, *, is_default: bool = False) -> Flow:
        """The flow of that identity, held to `admission` from now on."""
        flow = self._flows.get(identity)
        if flow is None:
            flow = self._flows[identity] = Flow(identity, admission, self._default if is_default else self._others)
        elif flow.admission is not admission:
            flow.admission = admission
            self._move(flow, self._default if is_default else self._others)
            self._compete(flow)
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
        group = flow.group
        if not group.heap:
            group.busy_since, group.busy_from = now, group.virtual
        is_first = not flow.waiting
        flow.waiting[ticket] = None
        if is_first:
            flow.waiting_since = now
            self._list(flow)
        return True

    def pop(self, now: float) -> T | None:
        """The next to be served, which then is in flight; None if there is none that may. Whoever is past its deadline is dropped."""
        while (flow := self._next()) is not None:
            ticket, _ = flow.waiting.popitem(last=now - flow.waiting_since > STANDING_SECONDS)
            self.length -= 1
            if ticket.deadline > now:
                self._serve(flow, ticket.cost)
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
        group = flow.group
        pace = (group.virtual - group.busy_from) / (now - group.busy_since) if now > group.busy_since else 0.0
        if pace <= 0:
            return None
        # Each of the flow's own before it is taken to cost as much.
        return (max(0.0, flow.start - group.virtual) + len(flow.waiting) * cost / flow.admission.weight) / pace

    def _next(self) -> Flow | None:
        other, default = self._head(self._others), self._head(self._default)
        return default if default and not (other and self._others.start < self._default.start) else other

    def _head(self, group: Group) -> Flow | None:
        """Whose turn it is in the group; flows that may not be served lose their entry."""
        heap = group.heap
        while heap:
            start, entry, flow = heap[0]
            if entry != flow.entry:  # it has moved to the other group since
                heappop(heap)
                continue
            group.virtual = start
            if flow.waiting and flow.in_flight < flow.admission.max_in_flight:
                return flow
            heappop(heap)
            flow.entry = 0
            self._compete(flow)
            self._forget(flow)
        return None

    def _serve(self, flow: Flow, cost: int) -> None:
        group, weights = flow.group, self._others.weight + self._default.weight
        share = max(self._default_share, self._default.weight / weights) if self._others.weight else 1.0
        self._virtual = group.start
        group.start += cost / (share if group is self._default else 1 - share)
        flow.in_flight += 1
        flow.start = group.virtual + cost / flow.admission.weight
        flow.entry = SERVED + next(self._entries)
        heapreplace(group.heap, (flow.start, flow.entry, flow))

    def _list(self, flow: Flow) -> None:
        if not flow.entry and flow.in_flight < flow.admission.max_in_flight:
            flow.entry = next(self._entries)
            flow.start = max(flow.start, flow.group.virtual)
            heappush(flow.group.heap, (flow.start, flow.entry, flow))
        self._compete(flow)

    def _move(self, flow: Flow, group: Group) -> None:
        """To the other group, if that is where it belongs now, as far behind its turn there as here."""
        if group is flow.group:
            return
        is_listed, flow.entry = bool(flow.entry), 0
        self._compete(flow)
        flow.start = group.virtual + max(0.0, flow.start - flow.group.virtual)
        flow.group = group
        if is_listed:
            self._list(flow)

    def _forget(self, flow: Flow) -> None:
        if not (flow.entry or flow.in_flight or flow.waiting):
            self._flows.pop(flow.identity, None)
            if not self._flows and (self._others.start or self._default.start):
                self._virtual, self._others, self._default = 0.0, Group(), Group()

    def _compete(self, flow: Flow) -> None:
        """Count the weight of a flow while it waits and may be served; a group of which none did is not behind."""
        group, weight = flow.group, flow.admission.weight if flow.entry and flow.waiting else 0
        if weight and not group.weight:
            group.start = max(group.start, self._virtual)
        group.weight += weight - flow.weight_counted
        flow.weight_counted = weight
