"""A cluster of kind or k3d that KUBECONFIG names, for a computer that cannot run the suite's own; called by the fixtures.

Not tried where the suite is developed, which has no Docker. Such a cluster is neither made nor stopped here, and what the suite installs is
removed again, the definition of tiers with every tier: so the cluster must have none before. Servers that are not the project's own are
pulled by its nodes.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes import client, config
from tests.cluster.images import images_of_the_project
from tests.kube.chart import ROOT
from tests.kube.control_plane import ControlPlane, Kubectl, kubectl_for
from tests.kube.tools import tool

ALLOWED = re.compile(r"(?P<tool>kind|k3d)-(?P<cluster>.+)")
LOAD = {"kind": ("kind", "load", "docker-image", "--name"), "k3d": ("k3d", "image", "import", "--cluster")}
BUILD_SECONDS = 900
DEFINITION = "crd/ratelimittiers.tidegate.dev"


class NotOurs(Exception):
    """The kubeconfig's current context is not one that tests may write to, or somebody works there."""


@dataclass(frozen=True)
class BorrowedCluster(ControlPlane):
    """Somebody's cluster: `url` is the path of its kubeconfig, `folder` is for files of the tests."""

    @property
    def admin_kubeconfig(self) -> Path:
        """The kubeconfig that was given."""
        return Path(self.url)

    def client(self) -> client.ApiClient:
        """A client that may do what the kubeconfig's user may."""
        return config.new_client_from_config(self.url)


def borrow(kubeconfig: Path, folder: Path) -> BorrowedCluster:
    """The cluster of a kubeconfig, with the project's images. Raises NotOurs when its context isn't one of kind or k3d."""
    found, cluster = allowed(kubeconfig), BorrowedCluster(str(kubeconfig), folder)
    check_unused(kubectl_for(cluster, tool("kubectl")))
    for image in images_of_the_project():
        build = ["docker", "build", "--tag", image.reference, "--target", image.target, "--file", "-", str(ROOT)]
        subprocess.run(build, input=image.dockerfile, text=True, check=True, timeout=BUILD_SECONDS)
        subprocess.run([*LOAD[found["tool"]], found["cluster"], image.reference], check=True, timeout=BUILD_SECONDS)
    return cluster


def check_unused(kubectl: Kubectl) -> None:
    """Raises NotOurs where there is an installation, or what a run that was killed has left."""
    if kubectl("get", DEFINITION, "--ignore-not-found", "--output", "name").strip():
        raise NotOurs(
            f"the cluster has a {DEFINITION} already, and the suite would remove it with every tier: use a cluster without, or remove what "
            f"is there by `helm uninstall tidegate --namespace tidegate` and `kubectl delete {DEFINITION} namespace/tidegate`"
        )


def allowed(kubeconfig: Path) -> re.Match[str]:
    """The current context in its parts. Raises NotOurs when tests may not write to its cluster."""
    context = str(yaml.safe_load(kubeconfig.read_text()).get("current-context", ""))
    found = ALLOWED.fullmatch(context)
    if found is None:
        raise NotOurs(f"the current context of {kubeconfig} is {context!r}: tests write to kind-* and k3d-* alone")
    return found
