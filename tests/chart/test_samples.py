"""What k8s/ has beside the sample tiers: values, a cluster, an overlay and Argo CD's Applications fit the chart and one another."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import CHART, ROOT, Helm, Json, find, render
from tests.kube.tools import ToolUnavailable, tool

K8S = ROOT / "k8s"
RENDERED = K8S / "rendered.yaml"


def test_what_is_only_rendered_is_the_same_each_time(helm: Helm) -> None:
    """No secret is among it: Argo CD would replace it at each sync, and with it every customer's results."""
    first, second = (render(helm, "--values", str(RENDERED)) for _ in range(2))

    assert first == second
    assert [found["metadata"]["name"] for found in first if found["kind"] == "Secret"] == []


def test_the_zones_of_the_sample_cluster_are_those_of_the_values(helm: Helm) -> None:
    """Else pods would wait for a node for ever."""
    cluster = yaml.safe_load((K8S / "kind.yaml").read_text())
    zones = {node["labels"]["topology.kubernetes.io/zone"] for node in cluster["nodes"] if "labels" in node}
    values = yaml.safe_load((K8S / "zones.yaml").read_text())

    objects = render(helm, "--values", str(K8S / "zones.yaml"))

    assert {region["zone"] for region in values["regions"]} < set(values["store"]["etcd"]["failureDomains"]) == zones
    assert find(objects, "StatefulSet", "tidegate-store")["spec"]["replicas"] == len(zones)


def test_argo_cd_finds_the_chart_the_values_and_the_tiers() -> None:
    platform, tiers = (found["spec"]["source"] for found in yaml.safe_load_all((K8S / "argocd/applications.yaml").read_text()))

    assert ROOT / platform["path"] == CHART
    assert [(CHART / file).resolve() for file in platform["helm"]["valueFiles"]] == [RENDERED]
    assert (ROOT / tiers["path"] / "free.yaml").exists()


@pytest.fixture
def kustomized(helm: Helm, tmp_path: Path) -> list[Json]:
    """The overlay on what the chart renders, as kubectl puts it together."""
    try:
        kubectl = tool("kubectl")
    except ToolUnavailable as ex:
        pytest.skip(str(ex))
    overlay = Path(shutil.copytree(K8S / "kustomize", tmp_path / "kustomize", ignore=shutil.ignore_patterns("tidegate.yaml")))
    rendered = helm("template", "tidegate", str(CHART), "--namespace", "tidegate", "--values", str(RENDERED), "--skip-tests")
    (overlay / "tidegate.yaml").write_text(rendered.stdout)
    done = subprocess.run([str(kubectl), "kustomize", str(overlay)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_the_overlay_adds_to_what_the_chart_renders_and_takes_nothing(helm: Helm, kustomized: list[Json]) -> None:
    rendered = render(helm, "--values", str(RENDERED), "--skip-tests")

    names = {(found["kind"], found["metadata"]["name"]) for found in kustomized}

    assert names == {(found["kind"], found["metadata"]["name"]) for found in rendered} | {("Namespace", "tidegate")}
    api = find(kustomized, "Deployment", "tidegate-api-frankfurt")["spec"]["template"]["spec"]
    assert api["dnsConfig"] == {"options": [{"name": "ndots", "value": "2"}]}
    assert "dnsConfig" not in find(kustomized, "Deployment", "tidegate-operator")["spec"]["template"]["spec"]
