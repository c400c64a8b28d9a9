"""Definitions of other projects' resources that the chart can make, as their Go modules carry them; called by fixtures, builds nothing."""

import json
import os
import subprocess
from pathlib import Path

from tests.kube.tools import find_go

FOLDER = Path(__file__).parent / "definitions"
DOWNLOAD_SECONDS = 300
FILES = {
    "sigs.k8s.io/gateway-api": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
    "github.com/prometheus-operator/prometheus-operator": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/kedacore/keda/v2": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
}


def other_definitions() -> list[Path]:
    """The files, of the versions that `definitions/go.mod` pins and `go.sum` vouches for; downloaded once.

    Raises:
        ToolUnavailable: There is no Go.
    """
    return [module_folder(module) / file for module, files in FILES.items() for file in files]


def module_folder(module: str) -> Path:
    """Where Go keeps the sources of a module."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(
        [find_go(), "mod", "download", "-json", module],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_SECONDS,
        check=True,
    )
    return Path(json.loads(done.stdout)["Dir"])
