"""Shows a worker's metrics on a port of its own, apart from the requests it serves; run by `worker.py`. Why: docs/decisions/0005."""

import asyncio
from collections.abc import Callable

import structlog
from prometheus_client import make_asgi_app
from uvicorn.config import Config
from uvicorn.server import ServerState

from tidegate.server.protocol import BoundedProtocol

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

EVERYWHERE = "0.0.0.0"  # noqa: S104 - within the pod's network; no Service names the port
RETRY_SECONDS = 1.0
"""While an old worker drains, its successor has no port yet."""


async def show_metrics(ports: range) -> None:
    """Answer on the first of `ports` that is free, once one is, until cancelled."""
    # The library's registry: that of the process, and what any resource registers.
    config = Config(
        make_asgi_app(), http=BoundedProtocol, lifespan="off", ws="none", access_log=False, server_header=False, log_config=None
    )
    config.load()
    state = ServerState()

    def connect() -> asyncio.Protocol:
        return BoundedProtocol(config=config, server_state=state, app_state={})

    listener = await _listen(connect, ports)
    try:
        await asyncio.Event().wait()
    finally:
        listener.close()


async def _listen(connect: Callable[[], asyncio.Protocol], ports: range) -> asyncio.Server:
    is_told = False
    while True:
        for port in ports:
            try:
                return await asyncio.get_running_loop().create_server(connect, EVERYWHERE, port)
            except OSError as ex:
                reason = ex.strerror
        if not is_told:
            is_told = True
            log.warning("no port for metrics is free yet", first=ports.start, ports=len(ports), reason=reason)
        await asyncio.sleep(RETRY_SECONDS)
