"""`JoinedWrites`: an answer's head and the first of its body in one system call; wrapped around a connection by `protocol.py`."""

import asyncio
from collections.abc import Callable
from typing import Any


class JoinedWrites:
    """A transport that sends a response's head together with what follows it in the same turn of the loop.

    uvicorn writes the two apart, which costs a system call; and a worker that is killed in between leaves the edge with half an answer,
    which it cannot take back and ask another region for.

    Args:
        transport: The connection.
        loop: Its event loop.
        close: Called instead of the transport's own, once everything is sent.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, close: Callable[[], None]) -> None:
        self._transport = transport
        self._loop = loop
        self._close = close
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

    def close(self) -> None:
        """Send what is held, and close."""
        self.flush()
        self._close()
