"""uvicorn's HTTP protocol with bounds on a request's head, refusals that are problems, and answers in one piece; used by `worker.py`."""

import asyncio
import json
import uuid
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

HEAD_BYTES = 32 * 1024
"""Largest request line and fields together, give or take one read of the socket: four times the largest token (OWASP API4)."""
HEAD_SECONDS = 10.0
"""Longest time from a connection or the first byte of a request to the end of its head."""
LINGER_SECONDS = 1.0
"""How long a refused client's further bytes are thrown away: closed on unread bytes, a connection would take the answer with it."""
FRAMING_BYTES = 1024 * 1024
"""Most of a message after its head that is not its body: sizes of chunks, and trailers, which are thrown away."""
TOO_LARGE = (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The request line and its fields may have {HEAD_BYTES} bytes.")


class HeadTooLargeError(Exception):
    """Ends the parser's work on a request; uvicorn asks for the refusal then."""


class JoinedWrites:
    """A transport that sends a response's head together with what follows it in the same turn of the loop.

    uvicorn writes the two apart, which costs a system call; and a worker that is killed in between leaves the edge with half an answer,
    which it cannot take back and ask another region for.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, or hold a head back for the rest of this turn."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that nothing followed."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def write_eof(self) -> None:
        """Send what is held, and then nothing more."""
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what is held, and close."""
        self.flush()
        self._transport.close()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What cannot be parsed, is too large or too slow is answered with a problem, and the connection closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._is_in_head = True
        self._framing_bytes = 0
        self._is_refused = False
        self._patience: asyncio.TimerHandle | None = None
        self._refusal = (HTTPStatus.BAD_REQUEST, "This is not a well-formed HTTP/1.1 request.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and wait for its first request for a while."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]  # it is one in all that uvicorn asks of it
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, within bounds."""
        if self._is_refused:
            return
        if not self._is_in_head:
            self._framing_bytes += len(data)
        elif self._head_bytes or data.strip(b"\r\n"):
            self._head_bytes += len(data)
        super().data_received(data)
        if self._is_refused:
            return
        if (self._is_in_head and self._head_bytes > HEAD_BYTES) or self._framing_bytes > FRAMING_BYTES:
            self._refuse(*TOO_LARGE)
        elif self._is_in_head and self._head_bytes and self._patience is None:
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """Begin to count a head, also one that came along with the end of the request before."""
        super().on_message_begin()
        self._head_bytes = max(1, self._head_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head. One that comes after the body is a trailer, and no trailer is a header (RFC 9110, 6.5.1)."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._is_in_head = False
        self._stop_waiting()
        # What was counted may hold the begin of a body, so only then is it worth an exact look.
        if self._head_bytes > HEAD_BYTES and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refusal = TOO_LARGE
            raise HeadTooLargeError
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the head of the next request."""
        super().on_message_complete()
        self._is_in_head, self._head_bytes, self._framing_bytes = True, 0, 0

    def on_response_complete(self) -> None:
        """Go on with the next request. There is none while the client has not finished this one, and nobody waits for its rest."""
        super().on_response_complete()
        if not self._is_in_head:
            self._linger()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser, or this class in its callbacks, does not take."""
        self._refuse(*self._refusal)

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly.")
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is under way, and is the last: no other may be written into it.
            self._stop_waiting()
            self._is_refused = True
            self.cycle.keep_alive = False
            if not self._is_in_head:
                # Its request is what goes wrong: the application, which waits for the rest, is told that nothing more comes.
                self.transport.close()
            return
        instance = f"urn:uuid:{uuid.uuid4()}"
        log.info("request refused", instance=instance, status=int(status), reason=detail)
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": int(status),
            "instance": instance,
            "detail": detail,
        }
        body = json.dumps(problem).encode()
        fields = (
            b"content-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\n"
            b"content-length: " + str(len(body)).encode() + b"\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + fields + body)
        self._linger()

    def _linger(self) -> None:
        self._stop_waiting()
        self._is_refused = True
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
