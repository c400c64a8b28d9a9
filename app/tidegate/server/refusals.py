"""What a client may send, and the problems that it is told when it sends anything else; answered by `protocol.py`."""

import json
import uuid
from http import HTTPStatus
from typing import Any

import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

HEAD_BYTES = 32 * 1024
"""Largest target and fields together: four times the largest token (OWASP API4)."""
HEAD_SECONDS = 10.0
"""Longest time from a connection or the first byte of a request to the end of its head."""
FRAMING_BYTES = 1024 * 1024
"""Most of a message after its head that is not its body: sizes of chunks, and trailers, which are thrown away."""
MOST_WAITING = 16
"""Requests that wait behind one that is being answered. Whoever sends more gets these answers, and the connection closed."""

Refusal = tuple[HTTPStatus, str]
MALFORMED: Refusal = (HTTPStatus.BAD_REQUEST, "This is not a well-formed HTTP/1.1 request.")
HEAD_TOO_LARGE: Refusal = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The request target and the fields may have {HEAD_BYTES} bytes.")
FRAMING_TOO_LARGE: Refusal = (
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    f"Sizes of chunks and trailers may have {FRAMING_BYTES} bytes.",
)
HEAD_TOO_SLOW: Refusal = (HTTPStatus.REQUEST_TIMEOUT, f"The request's head did not arrive within {HEAD_SECONDS:.0f} s.")
VERSION: Refusal = (HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 and HTTP/1.0 are supported.")
HOST: Refusal = (HTTPStatus.BAD_REQUEST, "A request has one Host field.")
CODING: Refusal = (HTTPStatus.NOT_IMPLEMENTED, "The transfer coding chunked is supported.")
UPGRADE: Refusal = (HTTPStatus.BAD_REQUEST, "A request to upgrade must have no content.")
TOO_MANY: Refusal = (HTTPStatus.TOO_MANY_REQUESTS, f"At most {MOST_WAITING} requests may wait on one connection.")


def problem(status: HTTPStatus, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields and the body of a refusal, which is logged under the id that its client is given."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    log.info("request refused", instance=instance, status=int(status), reason=detail)
    body = json.dumps({"type": "about:blank", "title": status.phrase, "status": status, "instance": instance, "detail": detail}).encode()
    fields = [
        (b"content-type", b"application/problem+json"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        (b"content-length", str(len(body)).encode()),
    ]
    return fields, body


def refusing(status: HTTPStatus, detail: str) -> Any:
    """An ASGI application that answers with a refusal, whoever asks."""

    async def refuse(_scope: Any, _receive: Any, send: Any) -> None:
        fields, body = problem(status, detail)
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return refuse
