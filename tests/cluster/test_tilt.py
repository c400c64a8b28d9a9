"""`tilt ci`, `tilt up` and `tilt down` on real pods, with images from the Tiltfile's `image-builder` where there is no Docker."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.cluster.conftest import Figures
from tests.cluster.control_plane import SERVER
from tests.cluster.release import Release
from tests.cluster.tilt import IMAGE_BUILDER, Tilt, copy_sources, is_settled
from tests.kube.control_plane import ControlPlane
from tests.kube.processes import eventually
from tests.kube.tiers import condition
from tests.kube.tools import tool
from tests.ports import free_port

CRD = "crd/ratelimittiers.tidegate.dev"
# As the Tiltfile forwards them, region by region.
PORTS = (8081, 8091)
RELOADED_SECONDS = 60
GONE_SECONDS = 90


@pytest.fixture(scope="module")
def tilt(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Tilt:
    """Tilt, with the programs that the Tiltfile needs on its PATH; it has a home of its own, unless Docker's settings are in that."""
    folder = tmp_path_factory.mktemp("tilt")
    for name in ("helm", "kubectl"):
        (folder / name).symlink_to(tool(name))
    kubeconfig = Path(shutil.copy(cluster.admin_kubeconfig, folder / "kubeconfig"))
    home = folder if cluster is SERVER else Path.home()
    paths = {"HOME": str(home), "KUBECONFIG": str(kubeconfig), "PATH": f"{folder}:{os.environ['PATH']}"}
    environment = {**os.environ, **paths, "TILT_DISABLE_ANALYTICS": "1"}
    settings = ("--image-builder", IMAGE_BUILDER, "--allowed-contexts", "tests") if cluster is SERVER else ()
    return Tilt(tool("tilt"), copy_sources(folder), "tilt", environment, settings, free_port())


@pytest.fixture(scope="module")
def brought(tilt: Tilt, make_release: Callable[[str], Release], figures: Figures) -> Iterator[Release]:
    """What `tilt ci` brought up in a namespace that enforces restricted pod security; nothing of it is left for other tests."""
    release = make_release(tilt.namespace)
    started = time.monotonic()
    try:
        tilt.ci()
        figures("tilt ci: two images, and all until the tiers are enforced", f"{time.monotonic() - started:.1f} s")
        yield release
    finally:
        tilt.down()
        release.kubectl("wait", "--for=delete", CRD, "--timeout=50s")


def test_tilt_ci_brings_the_definition_then_the_operator_then_the_tiers_and_all_is_enforced(brought: Release) -> None:
    """Each only once the one before works; when it ends, every pod is ready and every tier enforced in both regions."""
    definition = json.loads(brought.kubectl("get", CRD, "--output", "json"))
    deployment = json.loads(brought.kubectl("get", "deployment/tidegate-operator", "--output", "json"))
    [operator] = brought.pods("operator")
    tiers = [brought.tiers.read(name) for name in ("free", "pro", "enterprise")]
    pods = json.loads(brought.kubectl("get", "pods", "--output", "json"))["items"]

    assert condition(definition, "Established")["lastTransitionTime"] <= deployment["metadata"]["creationTimestamp"]
    assert all(condition(operator, "Ready")["lastTransitionTime"] <= tier["metadata"]["creationTimestamp"] for tier in tiers)
    assert [pod["metadata"]["name"] for pod in pods if condition(pod, "Ready")["status"] != "True"] == []
    assert [len(tier["status"]["regions"]) for tier in tiers] == [2, 2, 2]
    assert brought.tiers.all_ready()


def test_an_edit_is_taken_up_by_the_pods_that_run(brought: Release, tilt: Tilt, tmp_path: Path, figures: Figures) -> None:
    """By both regions' workers, as a client of the forwarded ports sees, and by the operator; none of them gets a new image."""
    with tilt.up(tmp_path / "tilt.log") as program:
        program.wait_until(lambda: is_settled(tilt.resources()), seconds=120)
        # Tilt is content when a new pod is ready, and its predecessor goes after that.
        brought.wait_until_ready()
        before = running(brought)

        edit(tilt.sources / "app/tidegate/resources/health.py", '{"status": "ok"}', '{"status": "edited"}')
        edited = time.monotonic()
        eventually(lambda: {answer(port) for port in PORTS} == {"edited"}, seconds=RELOADED_SECONDS)
        figures("tilt up: an edit of the API until both regions answer with it", f"{time.monotonic() - edited:.1f} s")

        edit(tilt.sources / "operator/tidegate_operator/__init__.py", '"""', 'print("edited")\n"""')
        edited = time.monotonic()
        eventually(lambda: "edited" in brought.kubectl("logs", "deployment/tidegate-operator"), seconds=RELOADED_SECONDS)
        figures("tilt up: an edit of the operator until it has started again", f"{time.monotonic() - edited:.1f} s")

        assert running(brought) == before


def test_tilt_down_leaves_the_volume_of_the_store_alone(brought: Release, tilt: Tilt) -> None:
    """Whoever deletes an installation by mistake still has the purchases; definition, tiers, lanes and keys are gone."""
    tilt.down()

    eventually(lambda: left(brought) == {"data-tidegate-store-0"}, seconds=GONE_SECONDS)
    brought.kubectl("wait", "--for=delete", CRD, "--timeout=50s")


def running(release: Release) -> set[tuple[str, str, int]]:
    """Name, image and restarts of the pods that an edit could replace."""
    pods = release.pods("api") + release.pods("operator")
    states = [(pod, pod["status"]["containerStatuses"][0]) for pod in pods]
    return {(pod["metadata"]["name"], pod["spec"]["containers"][0]["image"], state["restartCount"]) for pod, state in states}


def edit(file: Path, old: str, new: str) -> None:
    """Replace the first place where a file says so."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def answer(port: int) -> str:
    """What a region says of its life; nothing while nobody is there."""
    try:
        return str(httpx.get(f"http://127.0.0.1:{port}/livez", timeout=2).json()["status"])
    except httpx.HTTPError:
        return ""


def left(release: Release) -> set[str]:
    """Names of what the installation consists of, without what each namespace has."""
    kinds = "all,pvc,secrets,configmaps,networkpolicies,poddisruptionbudgets,serviceaccounts,roles,rolebindings"
    found = json.loads(release.kubectl("get", kinds, "--output", "json"))["items"]
    return {one["metadata"]["name"] for one in found} - {"default", "kube-root-ca.crt"}
