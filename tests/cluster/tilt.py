"""Tilt on the cluster, with a copy of the sources that a test may edit; called by `test_tilt.py`.

As a script it is the `image-builder` of the Tiltfile, which Tilt runs for each image.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.images import build_stage, buildah
from tests.cluster.layout import NODES
from tests.cluster.machines import Machine
from tests.cluster.nodes import import_image
from tests.kube.chart import ROOT
from tests.kube.processes import Program
from tests.kube.tiers import Json

STAGES = ("api-dev", "operator-dev")
LEFT_OUT = (".git", ".venv", ".tidegate", ".*_cache", "__pycache__", "dist")
CI_SECONDS = 300
# The storage of the images is below the home of whoever runs the tests, and Tilt has another one.
IMAGE_BUILDER = f"env HOME={Path.home()} {sys.executable} -m tests.cluster.tilt"


@dataclass(frozen=True)
class Tilt:
    """Tilt for one namespace and one copy of the sources."""

    program: Path
    sources: Path
    namespace: str
    environment: dict[str, str]
    settings: tuple[str, ...]
    port: int

    def ci(self) -> None:
        """Bring everything up, and wait until it is ready. Raises AssertionError with Tilt's words where it doesn't get there."""
        self._run("ci", "--port", str(self.port), "--", *self.settings, seconds=CI_SECONDS)

    def down(self) -> None:
        """Remove what was brought up."""
        self._run("down", "--", *self.settings, seconds=60)

    @contextmanager
    def up(self, log: Path) -> Iterator[Program]:
        """Have Tilt follow the sources until the block ends."""
        command = [*self._command("up"), "--port", str(self.port), "--", *self.settings]
        with Program(["env", f"--chdir={self.sources}", *command], log, self.environment) as program:
            yield program

    def resources(self) -> list[Json]:
        """What a running Tilt says of each resource that it brings by itself; none while it doesn't answer."""
        command = [str(self.program), "get", "uiresources", "--port", str(self.port), "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=self.environment, check=False)
        found = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return [one for one in found if "checks" not in one["metadata"].get("labels", {})]

    def _command(self, verb: str) -> list[str]:
        return [str(self.program), verb, "--namespace", self.namespace]

    def _run(self, verb: str, *arguments: str, seconds: float) -> None:
        command = [*self._command(verb), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=self.environment, cwd=self.sources, check=False)
        assert done.returncode == 0, f"tilt {verb}: {done.stdout[-6000:]}{done.stderr[-2000:]}"


def is_settled(resources: Sequence[Json]) -> bool:
    """Whether Tilt has brought all of them and they run; it has read its file by then."""
    states = [(one["status"].get("updateStatus"), one["status"].get("runtimeStatus")) for one in resources]
    return len(states) > 1 and all(update == "ok" and runtime in ("ok", "not_applicable") for update, runtime in states)


def copy_sources(folder: Path) -> Path:
    """A copy of the work tree in which Tilt finds all that it needs: with the same environment, as making another takes long."""
    copy = Path(shutil.copytree(ROOT, folder / "sources", symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)))
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


def build_stages() -> None:
    """Build the stages once where the registries of packages are in reach: later builds find all of that, and need none."""
    for stage in STAGES:
        build_stage(stage, ROOT)


def main() -> None:
    """Build the stage that Tilt asks for, from the sources in the current folder, and give it to the nodes."""
    built = build_stage(os.environ["STAGE"], Path.cwd())
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        buildah("push", built, f"docker-archive:{archive}:{os.environ['EXPECTED_REF']}")
        with ThreadPoolExecutor() as pool:
            for node in [pool.submit(import_image, Machine(node.name), archive) for node in NODES]:
                node.result()


if __name__ == "__main__":
    main()
