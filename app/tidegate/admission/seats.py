"""The seats of a worker and those who wait for one, on its event loop; called by the middleware, and by `application.py` at the end.

A request holds a seat while its handler runs. While fewer are taken than there are, every identity below its `maxInFlight` gets one at
once, and nobody waits but identities that have so many running. Only when none is free does the fair queue decide.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from tidegate.admission.errors import NoSeatError
from tidegate.admission.fair_queue import FairQueue, Flow, Ticket
from tidegate.admission.gradient import GradientSeats
from tidegate.admission.measures import AT_ONCE, EXPIRED, FULL, LEFT, STOPPING, WAITED, AdmissionMeasures
from tidegate.contract.tier import Tier

Left = Callable[[], Awaitable[None]]
"""Returns once the client of a request is gone."""


class Seat:
    """The right to run, until `leave`."""

    __slots__ = ("_seats", "flow", "handler_seconds")

    def __init__(self, seats: "Seats", flow: Flow) -> None:
        self._seats: Seats | None = seats
        self.flow = flow
        self.handler_seconds: float | None = None
        """What the handler took, once it has run; None where something else answered, such as a cache lane."""

    def leave(self) -> None:
        """Give it to the next; only the first call counts."""
        seats, self._seats = self._seats, None
        if seats is not None:
            seats.free(self)


class Waiter(Ticket):
    """A request in the queue, and what it waits for."""

    __slots__ = ("seat",)

    def __init__(self, flow: Flow, cost: int, deadline: float) -> None:
        super().__init__(flow, cost, deadline)
        self.seat: asyncio.Future[Seat] = asyncio.get_running_loop().create_future()


class Seats:
    """All of a worker's.

    Args:
        seats: How many.
        least: If not 0, there are between `least` and `seats`, as many as the latency of handlers suggests.
        default_tier: Name of the tier that has a least share.
        default_share: That share.
    """

    def __init__(self, seats: int, *, least: int = 0, default_tier: str = "", default_share: float = 0.0) -> None:
        self.seats = least or seats
        self.taken = 0
        self.measures = AdmissionMeasures()
        self._gradient = GradientSeats(least, seats) if least else None
        self._queue: FairQueue[Waiter] = FairQueue(default_share)
        self._default_tier = default_tier
        self._is_stopping = False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.length

    def take(self, identity: str, tier: Tier) -> Seat | None:
        """A seat that is free, or None; whoever gets none must `wait`."""
        flow = self._queue.flow(identity, tier.admission, is_default=tier.name == self._default_tier)
        if self.taken < self.seats and flow.in_flight < tier.admission.max_in_flight and not flow.waiting:
            self.taken += 1
            flow.in_flight += 1
            self.measures.requests[tier.name, AT_ONCE] += 1
            return Seat(self, flow)
        return None

    async def wait(self, identity: str, tier: Tier, *, cost: int = 1, patience_seconds: float = math.inf, left: Left | None = None) -> Seat:
        """A seat in one's turn, at the latest after the tier's `maxWait` and the client's patience.

        Args:
            identity: Whose request it is.
            tier: Its tier.
            cost: What it weighs in the share of its identity.
            patience_seconds: How long the client will wait.
            left: Tells when the client is gone.

        Raises:
            NoSeatError: There was none in time, or the request does not wait: too many of its identity do, or this worker stops.
        """
        now = time.monotonic()
        seconds = 0.0 if self._is_stopping else min(tier.admission.queue_max_wait_milliseconds / 1000, patience_seconds)
        flow = self._queue.flow(identity, tier.admission, is_default=tier.name == self._default_tier)
        waiter = Waiter(flow, cost, now + seconds)
        if not self._queue.put(waiter, now):
            outcome = STOPPING if self._is_stopping else EXPIRED if seconds <= 0 else FULL
            self.measures.requests[tier.name, outcome] += 1
            raise self._refusal(waiter, outcome)
        self._serve(now)  # a seat is free and somebody may take it only where an edited tier has just let its identities run more
        outcome = LEFT  # where this task is cancelled
        try:
            seat = await self._seat(waiter, seconds, left)
            outcome = WAITED
        except NoSeatError as ex:
            outcome = ex.reason
            raise
        finally:
            self.measures.requests[tier.name, outcome] += 1
            self.measures.wait_seconds.observe(time.monotonic() - now)
        return seat

    def free(self, seat: Seat) -> None:
        """Take a seat back, and give it to whoever is next; called by the seat."""
        now = time.monotonic()
        self._queue.end(seat.flow)
        if self._gradient and seat.handler_seconds is not None:
            self._gradient.observe(seat.handler_seconds, self.taken, now)
            self.seats = self._gradient.seats
        self.taken -= 1
        self._serve(now)

    def stop(self) -> None:
        """Refuse all who wait, and whoever comes when no seat is free: this worker ends soon."""
        self._is_stopping = True
        for waiter in self._queue.tickets():
            self._refuse(waiter, STOPPING)

    def _serve(self, now: float) -> None:
        # Also when nobody waits: the queue forgets whom it served only when it is asked for the next.
        while self.taken < self.seats and (waiter := self._queue.pop(now)) is not None:
            if waiter.seat.done():  # by a cancellation that its task has not seen yet
                self._queue.end(waiter.flow)
                continue
            self.taken += 1
            waiter.seat.set_result(Seat(self, waiter.flow))

    async def _seat(self, waiter: Waiter, seconds: float, left: Left | None) -> Seat:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._refuse, waiter, EXPIRED)
        leaving = loop.create_task(self._leave(waiter, left)) if left else None
        try:
            return await waiter.seat
        except asyncio.CancelledError:
            self._queue.withdraw(waiter)
            if not waiter.seat.cancelled() and not waiter.seat.exception():  # it was given a seat in the same turn
                waiter.seat.result().leave()
            raise
        finally:
            timer.cancel()
            if leaving:
                leaving.cancel()

    async def _leave(self, waiter: Waiter, left: Left) -> None:
        await left()
        self._refuse(waiter, LEFT)

    def _refuse(self, waiter: Waiter, outcome: str) -> None:
        self._queue.withdraw(waiter)
        if not waiter.seat.done():
            waiter.seat.set_exception(self._refusal(waiter, outcome))

    def _refusal(self, waiter: Waiter, outcome: str) -> NoSeatError:
        return NoSeatError(outcome, self._queue.wait_seconds(waiter.flow, waiter.cost, time.monotonic()))
