"""A store of each kind, empty; those on etcd skip without Go, and where CI is set a skip is a failure."""

import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.conftest import DURABLE, Valkey
from tests.etcd_cluster import EtcdCluster
from tests.kube.tools import ToolUnavailable, tool

from tidegate.connections.connect import connect
from tidegate.connections.etcd import EtcdServers
from tidegate.store.base import ConsistentStore
from tidegate.store.etcd import EtcdStore
from tidegate.store.gathered import GatheredReads
from tidegate.store.redis import RedisStore


class RedisServer(Valkey):
    """Redis itself, from PATH."""

    def binary(self) -> str:
        return "redis-server"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build etcd before any test starts: a first build takes longer than a test may."""
    if any(item.get_closest_marker("etcd") for item in session.items) and not session.config.option.collectonly:
        with suppress(ToolUnavailable):
            tool("etcd")


@pytest.fixture(scope="session")
def etcd_binary() -> Path:
    try:
        return tool("etcd")
    except ToolUnavailable as ex:
        pytest.skip(str(ex))


@pytest.fixture(scope="session")
def shared_etcd(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with EtcdCluster(etcd_binary, tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def etcd(shared_etcd: EtcdCluster) -> EtcdCluster:
    """Three running members without keys; do not stop any (take a cluster from `etcds` for that)."""
    shared_etcd.flush()
    return shared_etcd


@pytest.fixture
def etcds(etcd_binary: Path, tmp_path: Path) -> Iterator[Callable[..., EtcdCluster]]:
    """Makes running clusters whose members the test may kill and freeze; options go to the command line of each."""
    made: list[EtcdCluster] = []

    def make(*options: str, members: int = 3, context: ssl.SSLContext | None = None) -> EtcdCluster:
        cluster = EtcdCluster(etcd_binary, tmp_path / f"etcd-{len(made)}", *options, members=members, context=context)
        made.append(cluster)
        return cluster.__enter__()

    yield make
    for cluster in made:
        cluster.__exit__()


@pytest.fixture(scope="session")
def shared_redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE) as server:
        yield server


def on_server(server: Valkey) -> ConsistentStore:
    server.flush()
    return RedisStore(connect(server.url, timeout_seconds=5))


# Redis beside Valkey where the machine has it; the wheel that all machines have is Valkey's.
KINDS = ["valkey", "gathered", *(["redis"] if shutil.which("redis-server") else []), pytest.param("etcd", marks=pytest.mark.etcd)]


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ConsistentStore]:
    """An empty store of each kind."""
    stores: dict[str, Callable[[], ConsistentStore]] = {
        "valkey": lambda: on_server(request.getfixturevalue("shared_durable")),
        "gathered": lambda: GatheredReads(on_server(request.getfixturevalue("shared_durable"))),
        "redis": lambda: on_server(request.getfixturevalue("shared_redis_server")),
        "etcd": lambda: EtcdStore(EtcdServers.read(request.getfixturevalue("etcd").url), timeout_seconds=5),
    }
    store = stores[request.param]()
    yield store
    await store.close()
