"""The Tiltfile, evaluated by the real Tilt; no cluster and no container runtime is touched."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def environment(tmp_path: Path, built: Callable[[str], Path]) -> dict[str, str]:
    """A home without kubeconfig, and helm on PATH, for Tilt renders charts with it."""
    (tmp_path / "helm").symlink_to(built("helm"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none"), "TILT_DISABLE_ANALYTICS": "1"}


@pytest.fixture
def evaluate(environment: dict[str, str], built: Callable[[str], Path]) -> Callable[[], str]:
    """Has Tilt read the file, and gives what it understood."""
    command = [str(built("tilt")), "alpha", "tiltfile-result", "--file", str(ROOT / "Tiltfile")]

    def run() -> str:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90, check=False)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


def test_an_evaluation_repeats_itself(evaluate: Callable[[], str]) -> None:
    """What changes from one evaluation to the next, as a random password does, would be applied anew at every edit."""
    assert without_times(evaluate()) == without_times(evaluate())


def test_tilt_up_brings_everything_in_order(evaluate: Callable[[], str]) -> None:
    """The chart's workloads with a live update each, a port and a link per region, sample tiers after the definition, a demo button."""
    found = {manifest["Name"]: manifest for manifest in json.loads(evaluate())["Manifests"]}

    for name, port in {"tidegate-api-frankfurt": 8081, "tidegate-api-dublin": 8091}.items():
        assert live_update(found[name], "api-dev") == {"app/tidegate": f"{site_packages()}/tidegate"}
        forwards = found[name]["DeployTarget"]["portForwardTemplateSpec"]["forwards"]
        assert [(forward["localPort"], forward["containerPort"]) for forward in forwards] == [(port, 8000)]
        assert [link["URL"]["Host"] for link in found[name]["DeployTarget"]["Links"]] == [f"127.0.0.1:{port}"]
    assert live_update(found["tidegate-operator"], "operator-dev") == {"operator/tidegate_operator": f"{site_packages()}/tidegate_operator"}
    for name in ("tidegate-operator", "free", "pro", "enterprise"):
        assert found[name]["ResourceDependencies"] == ["crd"]
    assert found["demo"]["DeployTarget"]["UpdateCmdSpec"]["args"][-1] == "make demo"
    assert {"tidegate-redis-frankfurt", "tidegate-redis-dublin", "tidegate-store"} <= found.keys()


def test_no_secret_is_in_a_config_map(evaluate: Callable[[], str]) -> None:
    manifests = json.loads(evaluate())["Manifests"]
    objects = [found for manifest in manifests for found in yaml.safe_load_all(manifest["DeployTarget"].get("yaml", "")) if found]

    held = {
        found["kind"]: set(found.get("data") or found["stringData"])
        for found in objects
        if found["metadata"]["name"] in ("dev-keys", "dev-tokens")
    }
    assert held == {"Secret": {"identity.key", "idempotency.key", "result.key"}, "ConfigMap": {"jwks.json"}}


def live_update(manifest: dict[str, Any], stage: str) -> dict[str, str]:
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
