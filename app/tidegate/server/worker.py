"""The gunicorn worker that drains: readiness goes off first, requests are served on, then it stops; named by `gunicorn_config.py`.

Order of a stop (OPS-2): SIGTERM -> `/readyz` says 503 -> `drain_seconds` for endpoints and edges to notice -> no new connections
-> requests that wait for a seat are refused -> requests in flight end -> Redis connections close -> exit. gunicorn's `graceful_timeout`
bounds the whole.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from types import FrameType

from gunicorn.arbiter import Arbiter
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from tidegate.server.exposition import show_metrics
from tidegate.server.protocol import BoundedProtocol
from tidegate.settings import Settings
from tidegate.telemetry import draining

YOUNG_OBJECTS = 50_000
"""Allocations between two collections: some 10 MB."""


def settle_garbage_collection() -> None:
    """Collect less often, and never look at what lives as long as the process.

    Requests that wait for Redis keep their objects alive, so that a collection of the youngest, every 700 allocations by default, frees
    next to nothing and promotes them to where they are costly. Measured in docs/decisions/0004.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)


class DrainingServer(Server):
    """A uvicorn server that goes on serving for `drain_seconds` after the first signal to stop."""

    def __init__(self, worker: "DrainingWorker", drain_seconds: float) -> None:
        super().__init__(config=worker.config)
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain, or stop at once at a second signal."""
        if draining.started or sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
            return
        draining.started = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; what has not begun to run by now would not end in time."""
        draining.end()
        await super().shutdown(sockets)


class DrainingWorker(UvicornWorker):  # type: ignore[misc]  # the package has no type information
    """uvicorn on uvloop and httptools, draining; `TIDEGATE_DRAIN_SECONDS` says how long."""

    CONFIG_KWARGS = {
        "loop": "uvloop",
        "http": BoundedProtocol,
        "server_header": False,
        "access_log": False,
        "proxy_headers": False,
        "lifespan": "on",
        "ws": "none",
    }

    async def _serve(self) -> None:
        self.config.app = self.wsgi
        settle_garbage_collection()
        settings = Settings.from_environment(os.environ)
        server = self._server = DrainingServer(self, settings.drain_seconds)
        # The worker's own handler would leave the server running until gunicorn kills it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.handle_exit, signal.SIGQUIT, None)
        ports = range(settings.metrics_port, settings.metrics_port + self.cfg.workers)
        showing = asyncio.create_task(show_metrics(ports)) if settings.metrics_port else None
        await server.serve(sockets=self.sockets)
        if showing:
            showing.cancel()
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def callback_notify(self) -> None:
        """Tell the master that the loop turns; without a master, stop: nobody would replace or end this worker, and it holds the port."""
        await super().callback_notify()
        if os.getppid() != self.ppid:
            self._server.should_exit = True
