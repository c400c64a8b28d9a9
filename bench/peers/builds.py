"""Contenders that are not in Python, made ready once per state of their sources; kept where the tests keep their tools."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.kube.tools import ToolBuildFailed, ToolUnavailable, cache_folder, find_go, locked

HERE = Path(__file__).parent
BUILD_TIMEOUT_SECONDS = 600


def node() -> Path:
    """A copy of `node/` with its packages, at the versions that its lock file pins.

    Raises:
        ToolUnavailable: There is no Node, or no npm.
        ToolBuildFailed: npm ended with an error.
    """
    if not shutil.which("node") or not shutil.which("npm"):
        raise ToolUnavailable("Node and npm are not on PATH")
    return _ready("node", lambda folder: _run(["npm", "ci", "--ignore-scripts"], folder))


def go() -> Path:
    """The program of `go/`.

    Raises:
        ToolUnavailable: There is no Go that is new enough.
        ToolBuildFailed: The compiler ended with an error.
    """
    compiler = find_go()
    environment = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    return _ready("go", lambda folder: _run([compiler, "build", "-trimpath", "-o", "contender", "."], folder, environment)) / "contender"


def _ready(language: str, make: Callable[[Path], None]) -> Path:
    sources = sorted(path for path in (HERE / language).iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = cache_folder() / f"bench-{language}-{digest}"
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            print(f"building the contenders in {language}: once", file=sys.stderr, flush=True)
            unfinished = folder.with_name(f"{folder.name}.building")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(HERE / language, unfinished)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_SECONDS, check=False
    )
    if finished.returncode:
        raise ToolBuildFailed(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
