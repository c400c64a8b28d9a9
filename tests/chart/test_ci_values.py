"""What holds for every object of every values file in `charts/tidegate/ci`; tests/kube installs them on a real API server."""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chart.rendering import CHART, Helm, Json, render

VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
RECOMMENDED = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component", "part-of", "managed-by")}
SELECTING = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "tidegate.dev/region"}


@pytest.fixture(scope="module", params=VALUES, ids=lambda path: path.stem.removesuffix("-values"))
def documents(helm: Helm, request: pytest.FixtureRequest) -> list[Json]:
    """Every object of a values file, but those that are the user's own."""
    values: Path = request.param
    return [found for found in render(helm, "--values", str(values)) if found["metadata"].get("labels")]


def workloads(documents: list[Json]) -> list[Json]:
    return [found for found in documents if found["kind"] in ("Deployment", "StatefulSet")]


def all_pods(documents: list[Json]) -> Iterator[tuple[Json, Json]]:
    """Metadata and spec of every pod, hooks' too."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"], document["spec"]
    for workload in workloads(documents):
        yield workload["spec"]["template"]["metadata"], workload["spec"]["template"]["spec"]


def containers(documents: list[Json]) -> Iterator[Json]:
    for _, spec in all_pods(documents):
        yield from [*spec.get("initContainers", ()), *spec["containers"]]


def test_every_file_is_seen() -> None:
    assert {path.stem.removesuffix("-values") for path in VALUES} >= {
        *("minimal", "two-regions", "external-redis", "etcd", "edge", "keda", "one-of-many-clusters", "everything")
    }


def test_every_pod_meets_the_restricted_standard(documents: list[Json]) -> None:
    """And a little more: a read-only root, a numeric user, no environment of Services, bounded memory."""
    for _, spec in all_pods(documents):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert min(security["runAsUser"], security["runAsGroup"]) >= 10000
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert not [volume for volume in spec.get("volumes", ()) if "hostPath" in volume]
    for container in containers(documents):
        security = container["securityContext"]
        assert security == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["limits"]["memory"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_only_the_operator_may_ask_the_api_server(documents: list[Json]) -> None:
    mounted = {
        metadata["labels"]["app.kubernetes.io/component"]: spec["automountServiceAccountToken"] for metadata, spec in all_pods(documents)
    }

    assert {component for component, is_mounted in mounted.items() if is_mounted} == {"operator"}
    assert {role["kind"] for role in documents if "Role" in role["kind"]} == {"Role", "RoleBinding"}


def test_every_object_says_what_it_belongs_to(documents: list[Json]) -> None:
    for document in documents:
        labels = document["metadata"]["labels"]
        assert labels.keys() >= RECOMMENDED, document["kind"]
        assert all(re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value) for value in labels.values())


def test_no_two_objects_have_one_name(documents: list[Json]) -> None:
    named = Counter((found["kind"], found["metadata"]["name"]) for found in documents)

    assert not [name for name, count in named.items() if count > 1]


def selectors(documents: list[Json]) -> Iterator[tuple[str, dict[str, str]]]:
    """What each object finds pods by, and whose it is."""
    for document in documents:
        spec, name = document.get("spec", {}), f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "Service":
            yield name, spec["selector"]
        elif document["kind"] == "NetworkPolicy":
            yield name, spec["podSelector"]["matchLabels"]
        elif document["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget", "PodMonitor"):
            yield name, spec["selector"]["matchLabels"]


def test_every_selector_finds_pods_and_none_of_another_component(documents: list[Json]) -> None:
    """By labels that no upgrade changes."""
    pods = [metadata["labels"] for metadata, _ in all_pods(documents)]

    for name, selector in selectors(documents):
        found = [labels for labels in pods if selector.items() <= labels.items()]
        assert len({labels["app.kubernetes.io/component"] for labels in found}) == 1, name
        assert selector.keys() <= SELECTING, name


def test_every_port_that_a_service_names_is_a_containers(documents: list[Json]) -> None:
    for service in (found for found in documents if found["kind"] == "Service"):
        selected = [spec for metadata, spec in all_pods(documents) if service["spec"]["selector"].items() <= metadata["labels"].items()]
        for spec in selected:
            ports = {port["name"] for container in spec["containers"] for port in container.get("ports", ())}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_every_policy_lets_in_what_is_listened_on_and_nothing_else(documents: list[Json]) -> None:
    """A port that moves and a policy that does not would cut everybody off."""
    for policy in (found["spec"] for found in documents if found["kind"] == "NetworkPolicy"):
        allowed = {port["port"] for rule in policy.get("ingress", ()) for port in rule["ports"]}
        for metadata, spec in all_pods(documents):
            if policy["podSelector"]["matchLabels"].items() <= metadata["labels"].items():
                listened = {port["containerPort"] for container in spec["containers"] for port in container.get("ports", ())}
                assert allowed <= listened


def test_no_value_of_a_secret_is_anywhere_else(documents: list[Json]) -> None:
    """In variables, arguments, ConfigMaps or annotations."""
    others = json.dumps([found for found in documents if found["kind"] != "Secret"])
    secret = [
        base64.b64decode(value).decode(errors="replace").strip()
        for found in documents
        if found["kind"] == "Secret"
        for key, value in found["data"].items()
        if not key.endswith(("ca.crt", "tls.crt"))
    ]

    assert not [value for value in secret if value in others]
    assert not [name for container in containers(documents) for name in plain(container) if re.search("PASSWORD|SECRET|TOKEN$|_URL$", name)]


def plain(container: Json) -> list[str]:
    """Variables with a value in the pod itself, but addresses without a password in them."""
    env: list[dict[str, Any]] = container.get("env", [])
    return [entry["name"] for entry in env if "value" in entry and not re.match(r"(https?|etcds)://[^@]*$", entry["value"])]


def test_whatever_is_referred_to_is_made_here_or_named_in_the_values(documents: list[Json], request: pytest.FixtureRequest) -> None:
    made = {(found["kind"], found["metadata"]["name"]) for found in documents}
    values = request.node.callspec.params["documents"].read_text()

    for kind, name in references([spec for _, spec in all_pods(documents)]):
        assert (kind, name) in made or re.search(rf"\b{re.escape(name)}\b", values), name


def references(node: Any) -> Iterator[tuple[str, str]]:
    """Secrets and ConfigMaps that pods name."""
    if isinstance(node, dict):
        if "secretName" in node:
            yield "Secret", node["secretName"]
        for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap"), ("configMap", "ConfigMap")):
            if key in node:
                yield kind, node[key]["name"]
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(child)


def test_every_server_is_probed_and_every_image_named_exactly(documents: list[Json]) -> None:
    for workload in workloads(documents):
        for container in workload["spec"]["template"]["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe"} <= container.keys()
            assert re.fullmatch(r"[\w./-]+(:[\w.-]+|@sha256:[0-9a-f]{64})", container["image"])
            assert not container["image"].endswith(":latest")
