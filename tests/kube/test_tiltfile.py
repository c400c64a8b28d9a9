"""The Tiltfile, evaluated by the real Tilt; no cluster and no container runtime is touched."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
import yaml
from tests.kube.tiers import Json

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def environment(tmp_path: Path, built: Callable[[str], Path]) -> dict[str, str]:
    """A home without kubeconfig, and helm on PATH, for Tilt renders charts with it."""
    (tmp_path / "helm").symlink_to(built("helm"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none"), "TILT_DISABLE_ANALYTICS": "1"}


class Tilt(Protocol):
    """Has Tilt read the file with these arguments, and gives what it understood."""

    def __call__(self, *arguments: str) -> str: ...


@pytest.fixture
def run(environment: dict[str, str], built: Callable[[str], Path]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Has Tilt read the file with these arguments."""
    command = [str(built("tilt")), "alpha", "tiltfile-result", "--file", str(ROOT / "Tiltfile"), "--"]

    def read(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=90, check=False)

    return read


@pytest.fixture
def evaluate(run: Callable[..., subprocess.CompletedProcess[str]]) -> Tilt:
    """Gives what Tilt understood."""

    def read(*arguments: str) -> str:
        result = run(*arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        return str(result.stdout)

    return read


def test_an_evaluation_repeats_itself(evaluate: Tilt) -> None:
    """What changes from one evaluation to the next, as a random password does, would be applied anew at every edit."""
    assert without_times(evaluate()) == without_times(evaluate())


def test_tilt_up_brings_everything_in_order(evaluate: Tilt) -> None:
    """The definition before the operator before the sample tiers; the chart's workloads with a live update each."""
    found = manifests(evaluate())

    for name in ("tidegate-api-frankfurt", "tidegate-api-dublin"):
        assert live_update(found[name], "api-dev") == {"app/tidegate": f"{site_packages()}/tidegate"}
    assert live_update(found["tidegate-operator"], "operator-dev") == {"operator/tidegate_operator": f"{site_packages()}/tidegate_operator"}
    needed = {name: found[name]["ResourceDependencies"] for name in ("tidegate-operator", "free", "pro", "enterprise")}
    assert needed.pop("tidegate-operator") == ["crd"]
    assert list(needed.values()) == [["tidegate-operator"]] * 3
    assert {"tidegate-redis-frankfurt", "tidegate-redis-dublin", "tidegate-store"} <= found.keys()


def test_each_region_has_ports_and_links_of_its_own(evaluate: Tilt) -> None:
    """To its API and to the metrics of its first worker, whose ports are those of the pods."""
    found = manifests(evaluate())
    [api, *workers] = container_ports(found["tidegate-api-frankfurt"])

    for name, first in {"tidegate-api-frankfurt": (8081, 9101), "tidegate-api-dublin": (8091, 9111)}.items():
        forwards = found[name]["DeployTarget"]["portForwardTemplateSpec"]["forwards"]
        links = [link["URL"]["Host"] + link["URL"]["Path"] for link in found[name]["DeployTarget"]["Links"]]
        assert [(forward["localPort"], forward["containerPort"]) for forward in forwards] == list(
            zip(first, (api, workers[0]), strict=True)
        )
        assert links == [f"127.0.0.1:{first[0]}/readyz", f"127.0.0.1:{first[0]}/openapi.yaml", f"127.0.0.1:{first[1]}/metrics"]


def test_other_regions_are_a_setting(evaluate: Tilt) -> None:
    found = manifests(evaluate("--regions", "oslo", "--regions", "madrid"))

    assert {name for name in found if name.startswith("tidegate-api-")} == {"tidegate-api-oslo", "tidegate-api-madrid"}
    assert {name for name in found if name.startswith("tidegate-redis-")} == {"tidegate-redis-oslo", "tidegate-redis-madrid"}


def test_observability_is_a_setting(evaluate: Tilt) -> None:
    """Off unless asked for: without a Prometheus operator nobody knows a monitor."""
    without, observed = (kinds(manifests(evaluate(*arguments))) for arguments in ((), ("--observability",)))

    assert observed - without == {"PodMonitor", "PrometheusRule"}


def test_tests_demo_and_a_burst_of_load_wait_for_somebody_to_press_them(evaluate: Tilt) -> None:
    found = manifests(evaluate())
    commands = {name: found[name]["DeployTarget"]["UpdateCmdSpec"]["args"][-1] for name in ("test", "demo", "load")}

    assert (commands["test"], commands["demo"]) == ("make test", "make demo")
    assert "/v1/credits" in commands["load"]
    assert {found[name]["TriggerMode"] for name in commands} == {found["test"]["TriggerMode"]} != {found["tidegate-store"]["TriggerMode"]}


def test_a_cluster_that_may_be_production_is_refused(
    run: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    """Whoever has another context by mistake must not bring development keys there."""
    context = {"name": "production", "context": {"cluster": "production", "user": "somebody"}}
    cluster = {"name": "production", "cluster": {"server": "https://127.0.0.1:1"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "production", "contexts": [context], "clusters": [cluster]}
    Path(environment["KUBECONFIG"]).write_text(yaml.safe_dump(config))

    refused = run()

    assert refused.returncode != 0
    assert "production" in refused.stderr


def test_no_secret_is_in_a_config_map(evaluate: Tilt) -> None:
    objects = [
        found
        for manifest in manifests(evaluate()).values()
        for found in yaml.safe_load_all(manifest["DeployTarget"].get("yaml", ""))
        if found
    ]

    held = {
        found["kind"]: set(found.get("data") or found["stringData"])
        for found in objects
        if found["metadata"]["name"] in ("dev-keys", "dev-tokens")
    }
    assert held == {"Secret": {"identity.key", "idempotency.key", "result.key", "lane.key"}, "ConfigMap": {"jwks.json"}}


def manifests(result: str) -> dict[str, Json]:
    """What Tilt would bring, by name."""
    return {manifest["Name"]: manifest for manifest in json.loads(result)["Manifests"]}


def kinds(found: dict[str, Json]) -> set[str]:
    """Of all objects."""
    texts = (manifest["DeployTarget"].get("yaml", "") for manifest in found.values())
    return {each["kind"] for text in texts for each in yaml.safe_load_all(text) if each}


def container_ports(manifest: Json) -> list[int]:
    """Ports of the only container of its workload."""
    (workload,) = [found for found in yaml.safe_load_all(manifest["DeployTarget"]["yaml"]) if found["kind"] == "Deployment"]
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return [port["containerPort"] for port in container["ports"]]


def live_update(manifest: Json, stage: str) -> dict[str, str]:
    """Folder in the container by folder of the sources that it is kept equal to.

    The image must be built up to `stage`, where those files may be written, and a command must have them read.
    """
    (image,) = manifest["ImageTargets"]
    assert image["BuildDetails"]["target"] == stage
    assert re.search(rf"^FROM \w+ AS {stage}$", DOCKERFILE, re.MULTILINE)
    assert image["LiveUpdateSpec"]["execs"]
    return {sync["localPath"]: sync["containerPath"] for sync in image["LiveUpdateSpec"]["syncs"]}


def site_packages() -> str:
    """Where the images have their packages, as their Dockerfile says."""
    (python,) = set(re.findall(r"^FROM \S+/python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE))
    (environment,) = set(re.findall(r"python -m venv --without-pip (\S+)", DOCKERFILE))
    return f"{environment}/lib/python{python}/site-packages"


def without_times(result: str) -> str:
    """All but since when Tilt would follow the pods' logs."""
    return re.sub(r'"sinceTime": ?"[^"]*"', "", result)
