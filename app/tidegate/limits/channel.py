"""One connection that calls one script, for `redis.py`: a call of redis-py costs as much as thirty decisions, a write and a read do not.

redis-py opens the connection, with all that belongs to that (names, TLS, credentials, database, discovery of a primary). From then on it is
written and read here, by hiredis. Replies come in the order of the calls, which may overlap.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

Reply = asyncio.Future[bytes]
Call = tuple[tuple[Any, ...], Reply]
"""Number of keys, keys and arguments; and who waits for what the script says to them."""


class ScriptChannel(asyncio.Protocol):
    """Calls `script`. Connects when told to, or at the first call, also after the connection was lost; sends none twice that may have run.

    Args:
        make_connection: Makes a connection of redis-py that is not connected yet.
        script: Source of the script.
    """

    def __init__(self, make_connection: Callable[[], AbstractConnection], script: str) -> None:
        self._make_connection = make_connection
        self._script = script.encode()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest().encode()
        self._connection: AbstractConnection | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader()
        self._connecting: asyncio.Task[None] | None = None
        self._unsent: list[Call] = []
        self._sent: deque[Call] = deque()

    def call(self, keys: Sequence[str], arguments: Sequence[bytes]) -> Reply:
        """The script's reply. Whoever gives up cancels it; what was not sent by then never is.

        The future fails with `redis.exceptions.RedisError`: the server refused; or there is no connection, or it was lost, and then nobody
        knows whether the script ran.
        """
        reply: Reply = asyncio.get_running_loop().create_future()
        call = ((len(keys), *keys, *arguments), reply)
        if self._transport is None:
            self._unsent.append(call)
            self._begin_to_connect()
        else:
            self._send(self._transport, b"EVALSHA", self._sha, call)
        return reply

    async def open(self) -> bool:
        """Connect before the first call does, and say whether that was possible: if not, that call tries again."""
        await asyncio.wait([self._begin_to_connect()])
        return self._transport is not None

    def drop(self) -> None:
        """End the connection: the next call makes another one."""
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        """End the connection, or the attempt to make one."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
            self._end_attempt("this worker stops")  # a task that was cancelled before it began did not
        self.drop()

    def data_received(self, data: bytes) -> None:
        """Settle whoever's reply is there."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            if not isinstance(answer, hiredis.PushNotification):
                self._settle(self._sent.popleft(), answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever's reply is not."""
        if self._connection is not None:
            self._connection._close()  # type: ignore[no-untyped-call]  # or it would complain that nobody did
        self._connection = self._transport = None
        lost, self._sent = self._sent, deque()
        for _, reply in lost:
            _fail(reply, "connection lost")

    def _begin_to_connect(self) -> asyncio.Task[None]:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        try:
            connection = self._make_connection()
            await connection.connect()  # type: ignore[no-untyped-call]
            self._take_over(connection)
        except Exception as ex:  # noqa: BLE001 - whatever a URL made of redis-py, callers are told, and the next one tries again
            self._end_attempt(f"not connected: {type(ex).__name__}")
        else:
            self._end_attempt()

    def _end_attempt(self, reason: str = "") -> None:
        self._connecting = None
        unsent, self._unsent = self._unsent, []
        for call in unsent:
            if self._transport is None:
                _fail(call[1], reason)
            elif not call[1].done():
                self._send(self._transport, b"EVALSHA", self._sha, call)

    def _take_over(self, connection: AbstractConnection) -> None:
        # What is used of redis-py here and not promised; else names, TLS and credentials would all be ours.
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None or reader.at_eof() or writer.transport.is_closing():
            connection._close()  # type: ignore[no-untyped-call]
            raise RedisConnectionError("closed at once")
        self._connection, self._transport, self._reader = connection, writer.transport, hiredis.Reader()
        self._transport.set_protocol(self)

    def _send(self, transport: asyncio.WriteTransport, command: bytes, script: bytes, call: Call) -> None:
        self._sent.append(call)
        transport.write(hiredis.pack_command((command, script, *call[0])))

    def _settle(self, call: Call, answer: Any) -> None:
        reply = call[1]
        if reply.done():
            return
        if not isinstance(answer, hiredis.ReplyError):
            reply.set_result(answer)
        elif self._transport is not None and str(answer).startswith("NOSCRIPT"):
            self._send(self._transport, b"EVAL", self._script, call)
        else:
            reply.set_exception(ResponseError(str(answer)))
            if str(answer).startswith("READONLY"):
                # The primary was made a replica: who is one now, redis-py finds out as it connects.
                self.drop()


def _fail(reply: Reply, reason: str) -> None:
    if not reply.done():
        reply.set_exception(RedisConnectionError(reason))
