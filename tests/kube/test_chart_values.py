"""Every values file of the chart, installed on a real API server that knows the definitions of the other projects too."""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tests.kube.chart import CHART, RELEASE, Helm, render
from tests.kube.control_plane import ControlPlane, Kubectl, kubectl_for
from tests.kube.other_definitions import FILES, other_definitions
from tests.kube.tiers import Json
from tests.kube.tools import ToolUnavailable

VALUES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(scope="module")
def kubectl(own_cluster: ControlPlane, built: Callable[[str], Path]) -> Kubectl:
    """kubectl for a server of this module's own, which has the definitions of Gateway API, Prometheus operator and KEDA."""
    try:
        files = other_definitions()
    except ToolUnavailable as ex:
        pytest.skip(str(ex))
    run = kubectl_for(own_cluster, built("kubectl"))
    names = [yaml.safe_load(file.read_text())["metadata"]["name"] for file in files]
    for file in files:
        run("apply", "--server-side", "--filename", str(file))
    run("wait", *(f"crd/{name}" for name in names), "--for", "condition=Established", "--timeout=30s")
    return run


@pytest.fixture
def helm(own_cluster: ControlPlane, kubectl: Kubectl, built: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Helm]:
    """Helm for a restricted namespace of the test's own. The definition stays, for each installation to take over."""
    namespace = f"values-{request.session.items.index(request.node)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl(
        "apply",
        "--filename",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}),
    )
    helm = Helm(built("helm"), own_cluster, namespace)
    yield helm
    helm.uninstall("--ignore-not-found")


def identity(document: Json) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def test_an_installation_makes_every_object_and_its_pods_are_admitted(
    helm: Helm, kubectl: Kubectl, built: Callable[[str], Path], values: Path
) -> None:
    """The server checks each field, strictly, by its own rules and the other projects', and each pod by the restricted standard."""
    objects = [found for found in render(built("helm"), files=[values]) if found["kind"] != "CustomResourceDefinition"]
    hooks, rendered = ([found for found in objects if (found["kind"] == "Pod") == is_hook] for is_hook in (True, False))

    helm.install("--values", str(values), "--take-ownership")
    helm.upgrade("--values", str(values))

    stdin = yaml.safe_dump_all(rendered)
    found = kubectl("get", "--namespace", helm.namespace, "--filename", "-", "--output", "json", stdin=stdin)
    assert {identity(item) for item in json.loads(found)["items"]} == {identity(document) for document in rendered}
    checked = kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--namespace", helm.namespace,
                      "--filename", "-", stdin=stdin)  # fmt: skip
    assert len(checked.splitlines()) == len(rendered)
    pods = [pod_of(document["metadata"], document["spec"]) for document in hooks]
    pods += [pod_of_workload(document) for document in rendered if document["kind"] in ("Deployment", "StatefulSet")]
    admitted = kubectl("create", "--dry-run=server", "--namespace", helm.namespace, "--filename", "-", stdin=yaml.safe_dump_all(pods))
    assert len(admitted.splitlines()) == len(pods) > len(hooks) == 1


def pod_of_workload(workload: Json) -> Json:
    """The pod that a controller would make of a workload; a claim may be any volume here."""
    template = workload["spec"]["template"]
    claims = [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in workload["spec"].get("volumeClaimTemplates", [])]
    metadata = {**template["metadata"], "name": workload["metadata"]["name"]}
    return pod_of(metadata, {**template["spec"], "volumes": [*template["spec"]["volumes"], *claims]})


def pod_of(metadata: Json, spec: Json) -> Json:
    """A pod without a priority, whose class is the cluster's."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {key: value for key, value in spec.items() if key != "priorityClassName"},
    }


def test_everything_holds_an_object_of_each_kind_of_the_other_projects(built: Callable[[str], Path]) -> None:
    """Or their definitions would judge nothing."""
    kinds = {found["kind"] for found in render(built("helm"))}
    everything = {found["kind"] for file in VALUES for found in render(built("helm"), files=[file])}

    assert everything - kinds == {"HTTPRoute", "Ingress", "HorizontalPodAutoscaler", "ScaledObject", "PodMonitor", "PrometheusRule"}
    assert len(FILES) == 3


@pytest.mark.parametrize("by_server", ["true", "false"])
@pytest.mark.parametrize("scaler", ["autoscaling", "keda"])
def test_an_upgrade_leaves_as_many_pods_as_there_are_to_the_scaler(helm: Helm, kubectl: Kubectl, scaler: str, by_server: str) -> None:
    """Also the one that turns it on: without a number a Deployment has one pod, until the scaler acts. `false` is as Helm 3 does it."""
    scaled = ("--set", f"crds.enabled=false,api.{scaler}.enabled=true")
    helm.install("--set", "crds.enabled=false,api.replicas=5", f"--server-side={by_server}")

    helm.upgrade(*scaled)
    turned_on = replicas(helm, kubectl)
    scale(helm, kubectl, 7)
    helm.upgrade(*scaled, "--set", "api.seats=50")
    once = replicas(helm, kubectl)
    helm.upgrade(*scaled, "--set", "api.seats=60")

    assert (turned_on, once, replicas(helm, kubectl)) == (5, 7, 7)


@pytest.mark.parametrize("first", ["api.replicas=5", "api.autoscaling.enabled=true"])
def test_a_rollback_leaves_as_many_pods_as_there_are_to_the_scaler(helm: Helm, kubectl: Kubectl, first: str) -> None:
    """A number from when the release was made would be a conflict with the scaler's, and the rollback refused in the middle of trouble."""
    scaled = ("--set", "crds.enabled=false,api.autoscaling.enabled=true")
    helm.install("--set", f"crds.enabled=false,{first}")
    helm.upgrade(*scaled)
    scale(helm, kubectl, 7)
    helm.upgrade(*scaled, "--set", "api.seats=50")
    scale(helm, kubectl, 8)
    helm.upgrade(*scaled, "--set", "api.image.tag=broken")
    scale(helm, kubectl, 9)

    helm.rollback()

    assert replicas(helm, kubectl) == 9


def test_a_scaler_is_turned_off_by_force(helm: Helm, kubectl: Kubectl) -> None:
    """Or by the number that there is: Helm takes no field from others unless told to."""
    scaled = ("--set", "crds.enabled=false,api.autoscaling.enabled=true")
    off = ("--set", "crds.enabled=false,api.replicas=3")
    helm.install("--set", "crds.enabled=false")
    helm.upgrade(*scaled)
    scale(helm, kubectl, 7)
    helm.upgrade(*scaled)

    said = helm.refusal(*off)
    helm.upgrade(*off, "--force-conflicts")

    assert ".spec.replicas" in said
    assert replicas(helm, kubectl) == 3


def scale(helm: Helm, kubectl: Kubectl, number: int) -> None:
    """What a scaler does."""
    kubectl("scale", "deployment/tidegate-api-dublin", "--replicas", f"{number}", "--namespace", helm.namespace)


def replicas(helm: Helm, kubectl: Kubectl) -> int:
    return int(kubectl("get", "deployment/tidegate-api-dublin", "--namespace", helm.namespace, "--output", "jsonpath={.spec.replicas}"))


def test_two_releases_in_two_namespaces_share_nothing_but_the_definition(helm: Helm, kubectl: Kubectl) -> None:
    """Two clusters, each with a release of its own, stand side by side here: nothing else that they make is outside of a namespace."""
    other = Helm(helm.program, helm.cluster, f"{helm.namespace}-other")
    values = ("--values", str(CHART / "ci/one-of-many-clusters-values.yaml"))

    helm.install("--set", "regions[0].name=madrid", *values, "--set", "crds.enabled=true", "--take-ownership")
    other.install(*values)

    owner = json.loads(kubectl("get", "crd/ratelimittiers.tidegate.dev", "--output", "json"))["metadata"]["annotations"]
    other.uninstall()
    left = kubectl("get", "deployments", "--namespace", helm.namespace, "--output", "name").split()
    assert owner["meta.helm.sh/release-namespace"] == helm.namespace
    assert sorted(name.rpartition("/")[2] for name in left) == ["tidegate-api-madrid", "tidegate-edge-madrid", "tidegate-operator"]


def test_a_second_release_that_brings_the_definition_again_is_refused(helm: Helm, kubectl: Kubectl) -> None:
    """Helm's own answer names the object and its owner; the first release stays as it was."""
    helm.install("--take-ownership")
    other = Helm(helm.program, helm.cluster, f"{helm.namespace}-other")

    said = other.refusal("--install", "--create-namespace")

    assert "ratelimittiers.tidegate.dev" in said
    assert kubectl("get", "crd/ratelimittiers.tidegate.dev", "--output", "name")


CERTIFICATE = ["tls.crt", "tls.key", "ca.crt"]
SECRETS = {
    "keys.existingSecret": ["identity.key", "idempotency.key", "result.key", "lane.key"],
    "redis.existingSecret": ["frankfurt.url", "dublin.url", "regions.yaml", "store.url"],
    "store.existingSecret": ["store.url"],
    "cache.existingSecret": ["frankfurt.url", "dublin.url"],
    "store.type=Etcd,store.etcd.tls.existingClientSecret=others,store.etcd.tls.existingSecret": CERTIFICATE,
    "store.type=Etcd,store.etcd.tls.existingSecret=others,store.etcd.tls.existingClientSecret": CERTIFICATE,
    "test.existingSecret": ["token"],
}
CONFIG_MAPS = {
    "tokens.existingConfigMap": ["jwks.json"],
    "edge.enabled=true,keys.existingSecret=keys,store.existingSecret=store,edge.peers[0].name=oslo,edge.peers[0].url=https://oslo.example,"
    "edge.peers[0].caConfigMap": ["ca.crt"],
}


@pytest.mark.parametrize(("kind", "value"), [*(("Secret", value) for value in SECRETS), *(("ConfigMap", value) for value in CONFIG_MAPS)])
def test_a_secret_or_config_map_that_lacks_a_key_is_refused_with_its_name(helm: Helm, kubectl: Kubectl, kind: str, value: str) -> None:
    """Pods that cannot start would say so one by one, later."""
    keys = (SECRETS | CONFIG_MAPS)[value]
    install = ("--install", "--set", f"crds.enabled=false,{value}=mine")
    held_in = "data" if kind == "Secret" else "binaryData"
    for held in (keys[:-1], keys):
        data = {key: base64.b64encode(b"x" * 32).decode() for key in held}
        holder = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "mine", "namespace": helm.namespace}, held_in: data}
        kubectl("apply", "--filename", "-", stdin=json.dumps(holder))
        if held != keys:
            assert f'{kind} "mine" has no {keys[-1]}' in helm.refusal(*install)

    helm.upgrade(*install)
    assert RELEASE in kubectl("get", "deployments", "--namespace", helm.namespace, "--output", "name")
