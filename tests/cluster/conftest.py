"""Fixtures of the tests on real nodes: the cluster, started once, and the release that most tests share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubernetes import client
from tests.cluster import cluster as own
from tests.cluster.borrowed import borrow
from tests.cluster.control_plane import CONTROL, SERVER
from tests.cluster.machines import MachineUnfit
from tests.cluster.notes import install_by_the_notes
from tests.cluster.release import Release
from tests.cluster.tilt import build_stages
from tests.kube.chart import Helm
from tests.kube.control_plane import ControlPlane, Kubectl, kubectl_for
from tests.kube.processes import eventually
from tests.kube.tiers import TierClient, limited
from tests.kube.tools import ToolUnavailable, tool

from tidegate.local.keys import Keys

Figures = Callable[[str, object], None]
HERE = Path(__file__).parent
TEST_SECONDS = 600
measured = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for the cluster, and then pods take the time that pods take.

    Tilt's tests come first: they remove the definition that they brought, and with it everybody's tiers.
    """
    items.sort(key=lambda item: item.path != HERE / "test_tilt.py")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the tests need before any of them starts: a first build takes longer than a test may."""
    fixtures = {name for item in session.items if HERE in item.path.parents for name in getattr(item, "fixturenames", ())}
    if "cluster" in fixtures and not session.config.option.collectonly and not os.environ.get("KUBECONFIG"):
        try:
            own.build()
            if "tilt" in fixtures:
                tool("tilt")
                build_stages()
        except (MachineUnfit, ToolUnavailable) as ex:
            raise pytest.UsageError(str(ex)) from ex


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> Figures:
    """Keeps a figure for the end of the run."""
    found = pytestconfig.stash.setdefault(measured, [])
    return lambda name, value: found.append(f"{name}: {value}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was measured."""
    found = config.stash.get(measured, [])
    if found:
        terminalreporter.section("measured on the cluster")
        terminalreporter.write_line("\n".join(found))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The suite's own cluster, with this process in its network until the end; or the one of kind or k3d that KUBECONFIG names."""
    named = os.environ.get("KUBECONFIG")
    if named:
        yield borrow(Path(named), tmp_path_factory.mktemp("cluster"))
        return
    with own.running(), CONTROL.network():
        yield SERVER


@pytest.fixture(scope="session")
def zones_can_be_lost(cluster: ControlPlane) -> None:
    """Skips where the nodes are somebody else's."""
    if cluster is not SERVER:
        pytest.skip("nodes of a borrowed cluster are not taken away")


@pytest.fixture(scope="session")
def api(cluster: ControlPlane) -> Iterator[client.ApiClient]:
    """A client that may do everything."""
    with cluster.client() as connected:
        yield connected


@pytest.fixture(scope="session")
def kubectl(cluster: ControlPlane) -> Kubectl:
    """kubectl for the cluster."""
    return kubectl_for(cluster, tool("kubectl"))


@pytest.fixture(scope="session")
def make_release(
    cluster: ControlPlane, kubectl: Kubectl, api: client.ApiClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Release]]:
    """Makes a namespace for an installation, yet to be made; both are removed at the end, if the cluster stays."""
    made: list[Release] = []

    def make(namespace: str) -> Release:
        folder = tmp_path_factory.mktemp(namespace)
        helm = Helm(tool("helm"), cluster, namespace)
        made.append(Release(helm, kubectl, tool("kubectl"), Keys(folder / "keys"), TierClient(api, namespace), folder))
        made[-1].make_namespace()
        return made[-1]

    yield make
    for release in made if cluster is not SERVER else []:
        release.helm.uninstall("--ignore-not-found")
        kubectl("delete", "crd/ratelimittiers.tidegate.dev", "--ignore-not-found", "--timeout=50s")
        kubectl("delete", "namespace", release.namespace, "--timeout=110s", seconds=120)


@pytest.fixture(scope="session")
def release(make_release: Callable[[str], Release], figures: Figures) -> Release:
    """The release that tests share: installed without values, then made ready as its notes say. Each test leaves it ready."""
    installed = make_release("tidegate")
    install_by_the_notes(installed, figures)
    return installed


@pytest.fixture
def token(release: Release) -> str:
    """Of a customer whom no limit stops."""
    if "unlimited" not in release.tiers.names():
        release.tiers.create("unlimited", limited(1_000_000))
        eventually(lambda: release.tiers.is_ready("unlimited"), seconds=20)
    return release.token("unlimited", tenant="busy")
