"""What an API worker needs besides servers: keys of a local run, tokens signed with them, and its settings. And a slow network."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.conftest import Valkey

from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys


class Issuer:
    """Mints tokens, and names the files and claims that a worker must be told."""

    def __init__(self, directory: Path) -> None:
        self._keys = Keys(directory)
        self.environment = {
            "TIDEGATE_TOKEN_ISSUER": ISSUER,
            "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
            "TIDEGATE_TOKEN_KEYS_FILE": str(self._keys.token_keys),
            "TIDEGATE_IDENTITY_KEY_FILE": str(self._keys.identity),
            "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(self._keys.idempotency),
            "TIDEGATE_RESULT_KEY_FILE": str(self._keys.result),
        }

    def mint(self, tier: str, *, tenant: str = "acme", client: str = "demo", now: float | None = None) -> str:
        return self._keys.mint(Grant(tier, tenant, client), now=now)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "keys")


@asynccontextmanager
async def slow_way(port: int, latency_seconds: float) -> AsyncIterator[int]:
    """A port whose connections lead to `port`, each way as late as that."""
    loop, ends = asyncio.get_running_loop(), set[asyncio.StreamWriter]()

    async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                loop.call_later(latency_seconds, target.write, data)
        target.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ends.update((writer, back))
        await asyncio.gather(forward(reader, back), forward(there, writer))

    async with await asyncio.start_server(connect, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]
        for end in ends:
            end.close()
        await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)


@pytest.fixture
async def slowly(valkey: Valkey) -> AsyncIterator[Callable[..., object]]:
    """`await slowly(latency_seconds)`: a client of the flushed Valkey over a network that takes so long each way."""
    async with AsyncExitStack() as stack:

        async def client(latency_seconds: float) -> Redis:
            port = await stack.enter_async_context(slow_way(valkey.port, latency_seconds))
            return await stack.enter_async_context(
                Redis(port=port, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0))
            )

        yield client
