"""Reads a request's body once, within bounds of size and time; called by `application.py` before anything looks at the request."""

import asyncio

from falcon.asgi import Request, Response

from tidegate.contract.errors import TidegateError

BODY_SECONDS = 10.0
"""Longest time a client may take to send its body: longer only helps slow-body attacks (OWASP API4)."""


class BodyTooLargeError(TidegateError):
    """The body is larger than `maximum_body_bytes`."""


class BodyTimeoutError(TidegateError):
    """The body did not arrive within `BODY_SECONDS`."""


class BodyMiddleware:
    """Puts the raw body on `req.context.body`; handlers, fingerprint and digest all see these same bytes.

    Args:
        maximum_bytes: Largest body taken; a larger one is refused, by its declared length or as soon as it is passed.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._maximum_bytes = maximum_bytes

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, str]) -> None:
        """Read the body.

        Raises:
            BodyTooLargeError: More than the maximum.
            BodyTimeoutError: Too slow.
        """
        req.context.body = b""
        if req.method in ("GET", "HEAD", "OPTIONS"):
            return
        if (req.content_length or 0) > self._maximum_bytes:
            raise BodyTooLargeError(f"the body may have at most {self._maximum_bytes} bytes")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await req.stream.read(self._maximum_bytes + 1)
        except TimeoutError as ex:
            raise BodyTimeoutError(f"the body did not arrive within {BODY_SECONDS:.0f} s") from ex
        if len(body) > self._maximum_bytes:
            raise BodyTooLargeError(f"the body may have at most {self._maximum_bytes} bytes")
        req.context.body = body
