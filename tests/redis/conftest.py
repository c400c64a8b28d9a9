"""What an API worker needs besides servers: keys of a local run, tokens signed with them, and its settings. A gunicorn worker itself.

And a slow network."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.conftest import Valkey

from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys
from tidegate.store.redis import RedisStore

Start = Callable[..., subprocess.Popen[bytes]]
# A busy machine is late, and must not have a lane or the limits count as lost.
PATIENT = {"TIDEGATE_CACHE_TIMEOUT_SECONDS": "2", "TIDEGATE_DECISION_TIMEOUT_SECONDS": "2", "TIDEGATE_REDIS_TIMEOUT_SECONDS": "2"}


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

    def mint(self, tier: str, *, tenant: str = "acme", client: str = "demo", scope: str = "api payments", now: float | None = None) -> str:
        return self._keys.mint(Grant(tier, tenant, client, scope), now=now)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "keys")


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[RedisStore]:
    store = RedisStore(valkey.client())
    yield store
    await store.close()


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


@pytest.fixture
def start(port: int, valkey: Valkey, tmp_path: Path, issuer: Issuer) -> Iterator[Start]:
    """`start(app, **settings)`: a gunicorn on `port`, whose output is in `tmp_path / "log"`."""
    started: list[subprocess.Popen[bytes]] = []

    def run(app: str = "tidegate.asgi:app", **settings: str) -> subprocess.Popen[bytes]:
        environment = os.environ | issuer.environment
        environment |= {"TIDEGATE_REGION": "dublin", "TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_STORE_URL": valkey.url}
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            "python:tidegate.server.gunicorn_config",
            app,
            "--bind",
            f"127.0.0.1:{port}",
        ]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment | settings, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    yield run
    for process in started:
        # Its workers too: one that outlives its test would dispute the store that the next test sets up anew.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def publish_pro(redis: Redis) -> None:
    spec = {"windows": [{"name": "hour", "limit": 10**6, "period": "1h"}]}
    await redis.hset(keys.TIERS, "pro", encode_tier(TierDocument(Tier.from_spec("pro", spec), uid="u", generation=1)))
    await redis.set(keys.REVISION, 1)


def wait_for(url: str, status: int, seconds: float = 30.0) -> httpx.Response:
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = httpx.get(url)
            if answer.status_code == status:
                return answer
        except httpx.TransportError:
            answer = None
        assert time.monotonic() < deadline, f"{url} did not answer {status}, but {answer}"
        time.sleep(0.02)
