"""`Mutation`: what the look-up tells the transaction of a request; left on `req.context` by `middleware.py`."""

from collections.abc import Awaitable, Callable

import msgspec

from tidegate.idempotency.journal import Found

Responder = Callable[..., Awaitable[None]]


class Mutation(msgspec.Struct, frozen=True):
    """A request that changes something.

    Args:
        name: Under which the store knows it.
        fingerprint: What it asks.
        make_effect_id: Gives the id under which the outside world knows its effect; most have none.
        responder: The method of the resource that answers it.
        found: What the store knew when the request came.
        tombstone_seconds: For how long its key cannot be used again; 0: for as long as its result is kept.
    """

    name: str
    fingerprint: bytes
    make_effect_id: Callable[[], str]
    responder: Responder
    found: Found
    tombstone_seconds: int
