"""Has a request wait for a seat before it runs, and gives the seat back when it has run; placed by `application.py`."""

import math
import time
from functools import wraps
from typing import Any

from falcon.asgi import Request, Response

from tidegate.admission.patience import preferred_wait_seconds
from tidegate.admission.seats import Seat, Seats
from tidegate.contract.tier import Tier
from tidegate.routing import Responder

SEAT = "tidegate.seat"
"""Where the ASGI scope holds the `Seat` of its request."""
LEFT = "tidegate.left"
"""Where it holds what waits until the client is gone."""


class AdmissionMiddleware:
    """Takes a seat for whatever runs behind it; `public` resources and repeated mutations (`req.context.is_repetition`) need none.

    The seat is free again once the handler has answered, before its answer is sent: a client that reads slowly holds none, and neither does
    the generator of a streamed answer. The time in the queue, if any, is in `Server-Timing`.

    Args:
        seats: The worker's.
    """

    def __init__(self, seats: Seats) -> None:
        self._seats = seats

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Take a seat, or wait for one.

        Raises:
            NoSeatError: There is none in time.
        """
        if resp.complete or getattr(resource, "public", False) or getattr(req.context, "is_repetition", False):
            return
        identity, tier = req.context.tids[0], req.context.tier
        req.scope[SEAT] = self._seats.take(identity, tier) or await self._wait(req, identity, tier)

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Give the seat back, and say how long the request was in the queue."""
        leave_seat(req.scope)
        queue_seconds: float = getattr(req.context, "queue_seconds", 0.0)
        if queue_seconds:
            resp.append_header("Server-Timing", f"queue;dur={queue_seconds * 1000:.1f}")

    async def _wait(self, req: Request, identity: str, tier: Tier) -> Seat:
        begin = time.perf_counter()
        patience_seconds = preferred_wait_seconds(req.get_header("Prefer"))
        if patience_seconds < math.inf:
            patience_seconds -= begin - req.context.started
        try:
            return await self._seats.wait(
                identity,
                tier,
                cost=max(1, getattr(req.context, "cost", 1)),  # what costs nothing takes a seat all the same
                patience_seconds=patience_seconds,
                left=req.scope.get(LEFT),
            )
        finally:
            req.context.queue_seconds = time.perf_counter() - begin


def leave_seat(scope: Any) -> None:
    """Give back the seat of a request, if it has one; also where a handler was cancelled, and no middleware is asked."""
    seat: Seat | None = scope.get(SEAT)
    if seat is not None:
        seat.leave()


def timed(responder: Responder) -> Responder:
    """That responder, which tells the seat of its request how long it took: neither lanes nor the store are what seats are to follow."""

    @wraps(responder)
    async def respond(req: Request, resp: Response, **params: Any) -> None:
        begin = time.monotonic()
        try:
            await responder(req, resp, **params)
        finally:
            seat: Seat | None = req.scope.get(SEAT)
            if seat is not None:
                seat.handler_seconds = time.monotonic() - begin

    return respond
