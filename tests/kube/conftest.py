"""Fixtures of the tests on a real API server; without Go they skip, and where CI is set a skip is a failure."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from tests.kube.chart import CHART, RELEASE, Helm
from tests.kube.control_plane import ControlPlane, Kubectl, control_plane, kubectl_for
from tests.kube.processes import Program, eventually
from tests.kube.stage import DEFAULT_TIER, Regions, everywhere, operator, two_regions
from tests.kube.tiers import KIND, Json, TierClient, limited
from tests.kube.tools import CONTROL_PLANE, ToolUnavailable, tool

CRD_FILE = CHART / "files/ratelimittiers.yaml"
namespace_numbers = count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need before any of them starts: a first build takes longer than a test may."""
    needed = any("built" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not session.config.option.collectonly:
        for name in ("etcd", *CONTROL_PLANE, "helm", "tilt"):
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


@contextmanager
def fresh_cluster(folders: pytest.TempPathFactory, built: Callable[[str], Path]) -> Iterator[ControlPlane]:
    """Run an API server and its etcd until the block ends."""
    with control_plane(folders.mktemp("control-plane"), etcd=built("etcd"), server=built("kube-apiserver")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Path]) -> Iterator[ControlPlane]:
    """The API server that the tests share."""
    with fresh_cluster(tmp_path_factory, built) as running:
        yield running


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory, built: Callable[[str], Path]) -> Iterator[ControlPlane]:
    """An API server of the module's own."""
    with fresh_cluster(tmp_path_factory, built) as running:
        yield running


@pytest.fixture(scope="session")
def api(cluster: ControlPlane) -> Iterator[client.ApiClient]:
    """A client of that server that may do everything."""
    with cluster.client() as connected:
        yield connected


def make_namespace(api: client.ApiClient) -> str:
    """Make a fresh namespace. It stays: without controllers nobody would end its deletion."""
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

    def is_served() -> bool:
        try:
            objects.list_cluster_custom_object(**KIND)
        except client.ApiException:
            return False
        return True

    held = eventually(established, seconds=10) or {}
    # Whoever answers requests learns of it a moment later, and knows no tiers until then.
    eventually(is_served, seconds=10)
    return held


@pytest.fixture
def tiers(api: client.ApiClient, crd: Json) -> TierClient:
    """A client for the tiers of a fresh namespace."""
    return TierClient(api, make_namespace(api))


@pytest.fixture(scope="session")
def admitting(api: client.ApiClient, crd: Json) -> TierClient:
    """A client for dry runs only: nothing is stored, so that one namespace serves all tests."""
    return TierClient(api, "default")


@pytest.fixture(scope="session")
def kubectl(cluster: ControlPlane, built: Callable[[str], Path]) -> Kubectl:
    """Runs kubectl as somebody who may do everything."""
    return kubectl_for(cluster, built("kubectl"))


@pytest.fixture(scope="session")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    """Frankfurt and Dublin."""
    with two_regions(tmp_path_factory.mktemp("regions")) as running:
        yield running


@pytest.fixture(scope="session")
def watched(api: client.ApiClient, crd: Json) -> TierClient:
    """The tiers of the namespace that the operator watches; the default tier is there."""
    tiers = TierClient(api, make_namespace(api))
    tiers.create(DEFAULT_TIER, limited(10))
    return tiers


@pytest.fixture(scope="session")
def kubeconfig(watched: TierClient, cluster: ControlPlane, built: Callable[[str], Path], kubectl: Kubectl) -> Path:
    """Signs in as the service account of the chart, which may do what the chart's Role says and nothing else."""
    rights = Helm(built("helm"), cluster, watched.namespace).render_kinds("ServiceAccount", "Role", "RoleBinding")
    kubectl("apply", "--namespace", watched.namespace, "--filename", "-", stdin=yaml.safe_dump_all(rights))
    (account,) = (subject["name"] for one in rights if one["kind"] == "RoleBinding" for subject in one["subjects"])
    token = kubectl("create", "token", account, "--namespace", watched.namespace, "--duration", "1h").strip()
    return cluster.kubeconfig(account, token)


@pytest.fixture(scope="session")
def lanes(
    watched: TierClient, cluster: ControlPlane, built: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, str]:
    """What the chart tells an operator of dedicated cache lanes, and the key of their passwords."""
    deployments = Helm(built("helm"), cluster, watched.namespace).render_kinds("Deployment")
    (pod,) = (one["spec"]["template"]["spec"] for one in deployments if one["metadata"]["name"] == f"{RELEASE}-operator")
    (site,) = (entry["value"] for entry in pod["containers"][0]["env"] if entry["name"] == "TIDEGATE_OPERATOR_LANES")
    key = tmp_path_factory.mktemp("lanes") / "lane.key"
    key.write_text(secrets.token_urlsafe(32))
    return {"TIDEGATE_OPERATOR_LANES": site, "TIDEGATE_OPERATOR_LANE_KEY_FILE": str(key)}


@pytest.fixture(scope="session")
def running(
    regions: Regions, watched: TierClient, kubeconfig: Path, lanes: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """The operator; every region enforces the default tier."""
    with operator(tmp_path_factory.mktemp("operator"), regions, kubeconfig, watched.namespace, **lanes) as program:
        everywhere(regions, DEFAULT_TIER, 10)
        yield program
