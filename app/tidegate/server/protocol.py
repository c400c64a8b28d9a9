"""uvicorn's HTTP protocol with bounds on what a client may send and leave unread, refusals that are problems, and answers in one piece.

Used by `worker.py`. A connection may hold several requests at once (pipelining). uvicorn answers them in order; its `cycle` is always the
newest, and its `pipeline` holds those that wait, the newest first.
"""

import asyncio
from http import HTTPStatus
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tidegate.server.joined_writes import JoinedWrites
from tidegate.server.refusals import (
    CODING,
    FRAMING_BYTES,
    FRAMING_TOO_LARGE,
    HEAD_BYTES,
    HEAD_SECONDS,
    HEAD_TOO_LARGE,
    HEAD_TOO_SLOW,
    HOST,
    MALFORMED,
    MOST_WAITING,
    TOO_MANY,
    UPGRADE,
    VERSION,
    Refusal,
    problem,
    refusing,
)

LINGER_SECONDS = 1.0
"""How long an answered client may take to finish its request; and how long what it sends to a connection that ends is thrown away: closed
on unread bytes, a connection would take the answer with it."""
UNREAD_SECONDS = 30.0
"""How long a client may leave its answers unread."""


class Ended(asyncio.Event):
    """Of a client that sends no more: there is nothing to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def clear(self) -> None:
        """Stay as it is."""


class RefusedError(Exception):
    """Raised in a callback of the parser to end its work on a connection."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. What cannot be parsed, is too large or too slow is answered with a problem, and the connection closed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_in_head = True
        """Between the end of one request and the end of the next one's head."""
        self._read_bytes = 0
        """Since the newest head began, or after it and not of its content; 0 while no head has begun."""
        self._head_bytes = 0
        self._ignores_input = False
        self._refusal = MALFORMED
        self._patience: asyncio.TimerHandle | None = None
        """Until the client has sent a head, or the rest of a request that is answered already."""
        self._unread: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and wait for its first request for a while."""
        self._socket = transport
        super().connection_made(JoinedWrites(transport, self.loop, self._close))  # type: ignore[arg-type]  # all that uvicorn asks of it
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of a connection."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._patience, self._unread, self._end):
            if timer is not None:
                timer.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that sends no more still gets the answers to what it sent whole; returns whether the connection stays for that.

        Mostly it is gone, but nobody can tell. The application sees it by events after the end of the body, and may do without the answer.
        """
        if self._is_in_head and self._is_answer_due():
            self.cycle.keep_alive = False
            waited_for, self.cycle.message_event = self.cycle.message_event, Ended()
            waited_for.set()
            return True
        return False

    def data_received(self, data: bytes) -> None:
        """Parse what came, within bounds."""
        if self._ignores_input:
            return
        if self._is_in_head and not self._read_bytes:
            data = data.lstrip(b"\r\n")  # a stray line end begins no request, nor ends a pause
            if not data:
                return
        self._read_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return
        except httptools.HttpParserError:
            self._refuse(*self._refusal)
            return
        if self._is_in_head:
            self._expect_head()
        elif self._read_bytes > FRAMING_BYTES:
            self._refuse(*FRAMING_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Begin to count a head, also one that came along with the end of the request before."""
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._read_bytes = max(1, self._read_bytes)
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head. One that comes after the body is a trailer, and no trailer is a header (RFC 9110, 6.5.1)."""
        if self._is_in_head:
            super().on_header(name, value.rstrip(b" \t"))  # no part of the value (RFC 9110, 5.5), but httptools leaves it there
            self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Begin to answer, or to wait for the answers to the requests before."""
        self._stop_waiting()
        self._check_head()
        super().on_headers_complete()
        self._is_in_head, self._read_bytes = False, 0
        if self.parser.should_upgrade():
            # It is answered as if it had not asked (RFC 9110, 7.8). The parser takes what follows for another protocol, and so do we.
            self.cycle.keep_alive = False
            self._ignores_input = True

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._read_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the head of the next request."""
        super().on_message_complete()
        self._stop_waiting()
        self._is_in_head, self._read_bytes = True, 0
        if self.cycle.response_complete:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """Go on with the next request. A client that was answered early may end its own first, but nobody waits for that for long."""
        super().on_response_complete()
        if not self._is_in_head and self.cycle.response_complete and self._end is None:
            self._patience = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """Have the application wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self._socket.abort)

    def resume_writing(self) -> None:
        """Go on with an answer."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _is_answer_due(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            self._reject(HEAD_TOO_LARGE)

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._reject(VERSION)
        names = [name for name, _ in self.headers]
        hosts = names.count(b"host")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._reject(HOST)
        if b"transfer-encoding" in names and any(n == b"transfer-encoding" and v.lower() != b"chunked" for n, v in self.headers):
            self._reject(CODING)
        if self.parser.should_upgrade() and (b"content-length" in names or b"transfer-encoding" in names):
            # The parser would take the content for the next request.
            self._reject(UPGRADE)
        if len(self.pipeline) >= MOST_WAITING:
            self._reject(TOO_MANY)

    def _reject(self, refusal: Refusal) -> NoReturn:
        self._refusal = refusal
        raise RefusedError

    def _expect_head(self) -> None:
        if self._read_bytes > HEAD_BYTES:
            self._refuse(*HEAD_TOO_LARGE)
        elif self._read_bytes and self._patience is None:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._patience = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._read_bytes:
            self._refuse(*HEAD_TOO_SLOW)
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._stop_waiting()
        self._ignores_input = True
        if self._is_answer_due():
            self.cycle.keep_alive = False
            if self._is_in_head:
                # What goes wrong came behind a request that is whole: its answer is the last, and nothing is written into it.
                return
            if self.pipeline:
                self.pipeline[0] = (self.cycle, refusing(status, detail))
                return
            # Whatever the application still says is not written behind the refusal.
            self.cycle.disconnected = True
        if self._is_in_head or not self.cycle.response_started:
            fields, body = problem(status, detail)
            lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()

    def _close(self) -> None:
        if self._end is not None:
            return
        self._stop_waiting()
        self.pipeline.clear()  # a client that was told of the end does not learn what becomes of these (RFC 9112, 9.6)
        if self._is_in_head and not self._ignores_input:
            self._socket.close()
            self._end = self.loop.call_later(UNREAD_SECONDS, self._socket.abort)
            return
        self._ignores_input = True
        if not self._socket.is_closing():
            self._socket.write_eof()
        is_read = not self._socket.get_write_buffer_size()
        self._end = self.loop.call_later(LINGER_SECONDS if is_read else UNREAD_SECONDS, self._socket.abort)
