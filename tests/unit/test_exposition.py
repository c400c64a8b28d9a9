"""The metrics of a worker on a port of its own, without a worker."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from structlog.testing import capture_logs

from tidegate.server import exposition
from tidegate.server.exposition import show_metrics


async def test_a_worker_waits_until_a_port_is_free_and_says_so_once(port: int, eventually: Callable[..., Any], monkeypatch: Any) -> None:
    """As during a reload, while the old workers drain."""
    monkeypatch.setattr(exposition, "RETRY_SECONDS", 0.01)
    with capture_logs() as logs, socket.socket() as predecessor:
        predecessor.bind(("127.0.0.1", port))
        predecessor.listen()
        showing = asyncio.create_task(show_metrics(range(port, port + 1)))
        await asyncio.sleep(0.1)
        predecessor.close()

        async def is_shown() -> bool:
            async with httpx.AsyncClient() as client:
                with suppress(httpx.TransportError):
                    return "python_info" in (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            return False

        await eventually(is_shown)
        showing.cancel()
        await asyncio.wait([showing])

    assert [entry["event"] for entry in logs] == ["no port for metrics is free yet"]
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", port))
        successor.listen()
