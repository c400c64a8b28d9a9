"""Fixtures of the tests on a real API server; without Go they skip, and where CI is set a skip is a failure."""

import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from tests.kube.control_plane import ControlPlane, Kubectl, control_plane
from tests.kube.processes import eventually
from tests.kube.tiers import Json, TierClient
from tests.kube.tools import RECIPES, ToolUnavailable, tool

CRD_FILE = Path(__file__).parents[2] / "charts/tidegate/files/ratelimittiers.yaml"
namespace_numbers = count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything can be had, a skipped test would be a test that silently went missing."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and in CI that is a failure: {report.longrepr}"
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need before any of them starts: a first build takes longer than a test may."""
    needed = any("built" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        for name in RECIPES:
            with suppress(ToolUnavailable):
                tool(name)


@pytest.fixture(scope="session")
def built() -> Callable[[str], Path]:
    """Gives the path of a Go program, which is built if it must be; skips where that cannot be done."""

    def path_of(name: str) -> Path:
        try:
            return tool(name)
        except ToolUnavailable as ex:
            pytest.skip(str(ex))

    return path_of


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Path]) -> Iterator[ControlPlane]:
    """The API server that the tests share."""
    folder = tmp_path_factory.mktemp("control-plane")
    with control_plane(folder, etcd=built("etcd"), server=built("kube-apiserver")) as running:
        yield running


@pytest.fixture(scope="session")
def api(cluster: ControlPlane) -> Iterator[client.ApiClient]:
    """A client of that server that may do everything."""
    with cluster.client() as connected:
        yield connected


@pytest.fixture
def namespace(api: client.ApiClient) -> str:
    """A fresh namespace. It stays: without controllers nobody would end its deletion."""
    name = f"test-{next(namespace_numbers)}"
    client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    return name


@pytest.fixture(scope="session")
def crd(api: client.ApiClient) -> Json:
    """The RateLimitTier definition as the server holds it once it serves the resource."""
    # Any: the client declares every custom object an `object`.
    objects: Any = client.CustomObjectsApi(api)
    definitions = ("apiextensions.k8s.io", "v1", "customresourcedefinitions")
    definition = yaml.safe_load(CRD_FILE.read_text())
    objects.create_cluster_custom_object(*definitions, body=definition)

    def established() -> Json | None:
        current: Json = objects.get_cluster_custom_object(*definitions, definition["metadata"]["name"])
        conditions = {entry["type"]: entry["status"] for entry in current.get("status", {}).get("conditions") or []}
        return current if conditions.get("Established") == "True" else None

    return eventually(established, seconds=10) or {}


@pytest.fixture
def tiers(api: client.ApiClient, namespace: str, crd: Json) -> TierClient:
    """A client for the tiers of a fresh namespace."""
    return TierClient(api, namespace)


@pytest.fixture(scope="session")
def admitting(api: client.ApiClient, crd: Json) -> TierClient:
    """A client for dry runs only: nothing is stored, so that one namespace serves all tests."""
    return TierClient(api, "default")


@pytest.fixture(scope="session")
def kubectl(cluster: ControlPlane, built: Callable[[str], Path]) -> Kubectl:
    """Runs kubectl with the given arguments and returns what it prints."""
    environment = {**os.environ, "KUBECONFIG": str(cluster.admin_kubeconfig)}

    def run(*arguments: str, stdin: str = "", check: bool = True) -> str:
        command = [str(built("kubectl")), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, env=environment, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def chart_role(kubectl: Kubectl) -> Callable[[str], str]:
    """TEMPORARY"""

    def apply(namespace: str) -> str:
        kubectl("apply", "--namespace", namespace, "--filename", "/tmp/role.yaml")
        return "tidegate-operator"

    return apply
