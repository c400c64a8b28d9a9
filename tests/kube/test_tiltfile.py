"""The Tiltfile, evaluated by the real Tilt; no cluster and no container runtime is touched."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(tmp_path: Path, built: Callable[[str], Path]) -> dict[str, str]:
    """A home without kubeconfig, and helm on PATH, for Tilt renders charts with it."""
    (tmp_path / "helm").symlink_to(built("helm"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none"), "TILT_DISABLE_ANALYTICS": "1"}


def test_tilt_accepts_the_tiltfile(environment: dict[str, str], built: Callable[[str], Path]) -> None:
    """`tilt up` starts with a file that Tilt understands, and finds the chart's workloads and the sample tiers."""
    command = [str(built("tilt")), "alpha", "tiltfile-result", "--file", str(ROOT / "Tiltfile")]

    evaluated = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)

    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    resources = {manifest["Name"] for manifest in json.loads(evaluated.stdout)["Manifests"]}
    assert resources >= {"crd", "tidegate-operator", "tidegate-api-frankfurt", "tidegate-api-dublin", "free", "pro", "enterprise"}
