"""Reads a request's body once, whole and within bounds of size and time; placed by `application.py`."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from falcon.asgi import Request, Response

from tidegate.contract.errors import TidegateError
from tidegate.routing import METHODS_WITHOUT_CONTENT

BODY_SECONDS = 10.0
"""Longest time a client may take to send its body: longer only helps slow-body attacks (OWASP API4)."""

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Left = Callable[[], Awaitable[None]]


class BodyTooLargeError(TidegateError):
    """The body is larger than `maximum_body_bytes`."""


class BodyTimeoutError(TidegateError):
    """The body did not arrive within `BODY_SECONDS`."""


class BodyIncompleteError(TidegateError):
    """The client left before its body was complete; half a message must not be carried out (RFC 9112, 8)."""


def whole_or_error(receive: Receive) -> Receive:
    """An ASGI `receive` that raises `BodyIncompleteError` where Falcon would take the client's leaving for the end of the body.

    Its first event is there at once and empty: Falcon waits for one before it does anything, also for a client that sends none.
    Whatever comes after the end of the body can only be the client's leaving (`server/protocol.py` tells of one that sends no more).
    """
    is_first, is_complete = True, False

    async def receive_whole() -> Event:
        nonlocal is_first, is_complete
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b"", "more_body": True}
        event = await receive()
        if event["type"] == "http.disconnect" and not is_complete:
            raise BodyIncompleteError("the connection was closed in the middle of the body")
        if is_complete:
            return {"type": "http.disconnect"}
        is_complete = not event.get("more_body", False)
        return event

    return receive_whole


def when_left(receive: Receive) -> Left:
    """Waits until the client is gone; what it sends meanwhile is thrown away, so nobody else may wait for a body."""

    async def left() -> None:
        with suppress(BodyIncompleteError):
            while (await receive())["type"] != "http.disconnect":
                pass

    return left


class BodyMiddleware:
    """Puts the raw body on `req.context.body`; handlers, fingerprint and digest all see these same bytes.

    Args:
        maximum_bytes: Largest body taken; a larger one is refused, by its declared length or as soon as it is passed.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes

    async def process_request(self, req: Request, resp: Response) -> None:
        """Refuse a body that is declared to be too large, before anything else.

        Raises:
            BodyTooLargeError: More than the maximum.
        """
        if (req.content_length or 0) > self._maximum_bytes:
            raise self._too_large()

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, str]) -> None:
        """Read the body, which a client without a valid token does not get to send.

        Raises:
            BodyTooLargeError: More than the maximum.
            BodyTimeoutError: Too slow.
            BodyIncompleteError: The client left in the middle of it.
        """
        req.context.body = b""
        if req.method in METHODS_WITHOUT_CONTENT:
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await req.stream.read(self._maximum_bytes + 1)
        except TimeoutError as ex:
            raise BodyTimeoutError(f"the body did not arrive within {BODY_SECONDS:.0f} s") from ex
        if len(body) > self._maximum_bytes:
            raise self._too_large()
        req.context.body = body

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body may have at most {self._maximum_bytes} bytes")
