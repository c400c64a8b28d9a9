"""The Tiltfile, evaluated by the real Tilt; no cluster and no container runtime is touched."""

import json
import os
import re
import subprocess
import sys
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
    command = [str(built("tilt")), "alpha", "tiltfile-result", "--verbose", "--file", str(ROOT / "Tiltfile"), "--"]

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
    """The definition before the operator before the sample tiers, and it is done when those are enforced in every region."""
    found = manifests(evaluate())

    needed = {name: set(found[name]["ResourceDependencies"]) for name in ("tidegate-operator", "free", "pro", "enterprise", "enforced")}
    assert needed.pop("tidegate-operator") == {"crd"}
    assert needed.pop("enforced") == {"free", "pro", "enterprise", "tidegate-api-frankfurt", "tidegate-api-dublin"}
    assert list(needed.values()) == [{"tidegate-operator"}] * 3
    assert {"tidegate-redis-frankfurt", "tidegate-redis-dublin", "tidegate-store"} <= found.keys()


@pytest.mark.parametrize("builder", [(), ("--image-builder", "nerdctl build --target $STAGE --tag $EXPECTED_REF .")])
def test_edits_go_into_pods_that_run(evaluate: Tilt, builder: tuple[str, ...]) -> None:
    """Whatever builds the images. Both packages are kept equal in both, so that an edit of one makes no image of the other anew."""
    found = manifests(evaluate(*builder))

    synced = {"app/tidegate": f"{site_packages()}/tidegate", "operator/tidegate_operator": f"{site_packages()}/tidegate_operator"}
    for name in ("tidegate-api-frankfurt", "tidegate-api-dublin", "tidegate-operator"):
        assert {sync["localPath"]: sync["containerPath"] for sync in live_update(found[name])["syncs"]} == synced
    assert [run["triggerPaths"] for run in live_update(found["tidegate-api-dublin"])["execs"]] == [["app/tidegate"]]
    assert [run["triggerPaths"] for run in live_update(found["tidegate-operator"])["execs"]] == [list(synced)]


def test_what_workers_inherit_from_gunicorn_makes_an_image_anew(evaluate: Tilt) -> None:
    """A HUP starts workers again, and not the process that has loaded their class and whatever that imports."""
    script = "import sys, tidegate.server.worker; print(*(m.__file__ for name, m in sys.modules.items() if name.startswith('tidegate')))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True).stdout
    inherited = {Path(file).relative_to(ROOT) for file in printed.split()}

    rebuilding = {Path(path) for path in live_update(manifests(evaluate())["tidegate-api-dublin"])["stopPaths"]}

    assert {path for path in inherited if rebuilding.isdisjoint((path, *path.parents))} == {
        Path("app/tidegate/__init__.py"),
        Path("app/tidegate/contract/__init__.py"),
    }


@pytest.mark.parametrize("name", ["api", "operator"])
def test_the_images_are_those_stages_whose_files_may_be_written(evaluate: Tilt, name: str) -> None:
    """With Docker, or by a command that is told the stage."""
    resource = {"api": "tidegate-api-dublin", "operator": "tidegate-operator"}[name]
    [built] = manifests(evaluate())[resource]["ImageTargets"]
    [commanded] = manifests(evaluate("--image-builder", "make an-image"))[resource]["ImageTargets"]

    assert re.search(rf"^FROM {name} AS {name}-dev$", DOCKERFILE, re.MULTILINE)
    assert built["BuildDetails"]["target"] == f"{name}-dev"
    assert commanded["BuildDetails"]["args"][-1] == "make an-image"
    assert f"STAGE={name}-dev" in commanded["BuildDetails"]["env"]


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
    run: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str]
) -> None:
    """Whoever has another context by mistake must not bring development keys there; naming another one allows no more than that."""
    Path(environment["KUBECONFIG"]).write_text(kubeconfig("production"))

    for arguments in ((), ("--allowed-contexts", "team-development")):
        refused = run(*arguments)
        assert refused.returncode != 0
        assert "production" in refused.stderr


@pytest.mark.parametrize(("context", "arguments"), [("kind-other", ()), ("k3d-other", ()), ("team", ("--allowed-contexts", "team"))])
def test_a_cluster_on_this_computer_or_one_that_is_named_is_used(
    evaluate: Tilt, environment: dict[str, str], context: str, arguments: tuple[str, ...]
) -> None:
    """Tilt knows the former by their names."""
    Path(environment["KUBECONFIG"]).write_text(kubeconfig(context))

    assert "tidegate-store" in manifests(evaluate(*arguments))


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


def test_no_secret_is_in_the_log(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Tilt shows the commands that it runs, to whoever looks at its page."""
    shown = run().stderr

    assert "helm template" in shown
    assert [key.name for key in (ROOT / ".tidegate/keys").glob("*.key") if key.read_text().strip() in shown] == []


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


def live_update(manifest: Json) -> Json:
    """How the only image of its workload is kept equal to the sources."""
    (image,) = manifest["ImageTargets"]
    return dict(image["LiveUpdateSpec"])


def kubeconfig(context: str) -> str:
    """A kubeconfig with one cluster, which doesn't answer."""
    contexts = [{"name": context, "context": {"cluster": context, "user": "somebody"}}]
    clusters = [{"name": context, "cluster": {"server": "https://127.0.0.1:1"}}]
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": context, "contexts": contexts, "clusters": clusters})


def site_packages() -> str:
    """Where the images have their packages, as their Dockerfile says."""
    (python,) = set(re.findall(r"^FROM \S+/python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE))
    (environment,) = set(re.findall(r"python -m venv --without-pip (\S+)", DOCKERFILE))
    return f"{environment}/lib/python{python}/site-packages"


def without_times(result: str) -> str:
    """All but since when Tilt would follow the pods' logs."""
    return re.sub(r'"sinceTime": ?"[^"]*"', "", result)
