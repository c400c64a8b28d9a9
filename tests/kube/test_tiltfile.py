"""The Tiltfile, evaluated by the real Tilt; no cluster and no container runtime is touched."""

import json
import os
import re
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

    first, second = (subprocess.run(command, capture_output=True, text=True, env=environment, timeout=90, check=False) for _ in range(2))

    assert first.returncode == 0, first.stderr[-3000:]
    # What changes from one evaluation to the next, as a random password does, would be applied anew at every edit.
    assert without_times(first.stdout) == without_times(second.stdout)
    resources = {manifest["Name"] for manifest in json.loads(first.stdout)["Manifests"]}
    assert resources >= {"crd", "tidegate-operator", "tidegate-api-frankfurt", "tidegate-api-dublin", "free", "pro", "enterprise"}


def without_times(result: str) -> str:
    """All but since when Tilt would follow the pods' logs."""
    return re.sub(r'"sinceTime": ?"[^"]*"', "", result)
