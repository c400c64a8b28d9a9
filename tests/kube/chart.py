"""Runs Helm on the chart, against a cluster of the tests; called by the fixtures and the chart's tests."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import eventually
from tests.kube.tiers import Json

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/tidegate"
# The chart of the release before, one at a time; `make keep-chart` renews it.
(KEPT,) = (ROOT / "tests/fixtures/charts").iterdir()
RELEASE = "tidegate"
DEFINITION = "crd/ratelimittiers.tidegate.dev"
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Helm:
    """Helm for one cluster and one namespace, with its caches in a folder of its own."""

    program: Path
    cluster: ControlPlane
    namespace: str

    @property
    def environment(self) -> dict[str, str]:
        """Where Helm keeps its own things, and the cluster."""
        home = self.cluster.folder / "helm"
        homes = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        return {**self.cluster.environment, **homes}

    def install(self, *options: str, chart: Path = CHART) -> None:
        """Install the release; without nodes nothing would become ready, so nothing is waited for."""
        self._run("install", RELEASE, str(chart), "--create-namespace", *options)

    def upgrade(self, *options: str, chart: Path = CHART) -> None:
        """Upgrade the release, with the values of the options alone."""
        self._run("upgrade", RELEASE, str(chart), *options)

    def refusal(self, *options: str, release: str = RELEASE) -> str:
        """What Helm says to an upgrade that it refuses, or to an installation where there is no such release."""
        done = self._start("upgrade", "--install", release, str(CHART), *options)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def uninstall(self, *options: str) -> None:
        """Remove the release."""
        self._run("uninstall", RELEASE, *options)

    def rollback(self) -> None:
        """Go back to the revision before the present one."""
        self._run("rollback", RELEASE)

    def test(self, *, passes: bool = True) -> str:
        """Run the release's own test, and return what it and Helm say; it has to pass, or to fail."""
        done = self._start("test", RELEASE, "--logs")
        assert (done.returncode == 0) == passes, done.stdout + done.stderr
        return done.stdout + done.stderr

    def notes(self) -> str:
        """What the release says to whoever installed it."""
        return self._run("get", "notes", RELEASE)

    def render_kinds(self, *kinds: str, options: Sequence[str] = ()) -> list[Json]:
        """The objects of these kinds that an installation would make."""
        rendered = yaml.safe_load_all(self._run("template", RELEASE, str(CHART), *options))
        return [manifest for manifest in rendered if manifest and manifest["kind"] in kinds]

    def _run(self, *arguments: str) -> str:
        done = self._start(*arguments)
        assert done.returncode == 0, f"helm {arguments[0]}: {done.stderr}"
        return done.stdout

    def _start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), "--namespace", self.namespace, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=self.environment,
            check=False,
        )


def wait_for_definition(kubectl: Kubectl) -> None:
    """Wait until tiers can be applied: where kubectl looks for kinds, theirs appears a moment after the definition is established."""
    kubectl("wait", DEFINITION, "--for", "condition=Established", "--timeout=20s")
    kinds = ("api-resources", "--api-group=tidegate.dev", "--output=name")
    eventually(lambda: "ratelimittiers" in kubectl(*kinds, check=False), seconds=20)


def render(program: Path, *values: str, files: Sequence[Path] = ()) -> list[Json]:
    """What an installation into an empty cluster would make; no cluster is asked."""
    settings = [part for value in values for part in ("--set", value)] + [part for file in files for part in ("--values", str(file))]
    command = [str(program), "template", RELEASE, str(CHART), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
