"""The stages of the tests: one on each kind of store that many tests share, and more that a test may take apart."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.chaos.stage import Stage, ValkeyServer, stage_on
from tests.etcd_cluster import EtcdCluster
from tests.kube.tools import ToolUnavailable, tool

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
STORES = ["redis", "etcd"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a stage run in one process."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            kind = next((kind for kind in STORES if kind in item.name), "")
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {kind}"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build etcd before any test starts: a first build takes longer than a test may."""
    if not session.config.option.collectonly:
        with suppress(ToolUnavailable):
            tool("etcd")


@contextmanager
def running_store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store that nobody breaks."""
    if kind == "redis":
        with ValkeyServer(folder / "store", *DURABLE) as server:
            yield server.url
    else:
        with EtcdCluster(etcd(), folder / "store") as cluster:
            yield cluster.url


def etcd() -> Path:
    try:
        return tool("etcd")
    except ToolUnavailable as ex:
        pytest.skip(str(ex))


@pytest.fixture(scope="session", params=STORES)
def shared_stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp(request.param)
    with running_store(request.param, folder) as url, stage_on(folder, url) as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """A running stage on each kind of store, with one worker a region; a test may kill workers and regions, but not the store."""
    yield shared_stage
    shared_stage.provider.recover()
    shared_stage.wait_until_ready()
