"""The operator as a pod: gone for a while, with many tiers, and without an API server."""

import re
import time

import pytest
from tests.cluster import control_plane
from tests.cluster.conftest import Figures
from tests.cluster.release import Release
from tests.kube.processes import eventually
from tests.kube.tiers import limited

MANY = 1000
OPERATOR = "deployment/tidegate-operator"


@pytest.fixture
def edited(release: Release) -> str:
    """The name of a tier that both regions enforce."""
    if "edited" not in release.tiers.names():
        release.tiers.create("edited", limited(10))
        eventually(lambda: release.tiers.is_ready("edited"), seconds=30)
    return "edited"


def test_an_edit_made_while_the_operator_is_gone_is_enforced_by_the_next(release: Release, edited: str, figures: Figures) -> None:
    """It needs no event that it could have missed."""
    (pod,) = release.pods("operator")
    release.kubectl("scale", OPERATOR, "--replicas=0")
    release.kubectl("wait", f"pod/{pod['metadata']['name']}", "--for=delete", "--timeout=60s", seconds=70)
    release.tiers.edit(edited, **limited(50))
    release.kubectl("scale", OPERATOR, "--replicas=1")
    started = time.monotonic()

    eventually(lambda: release.tiers.is_ready(edited), seconds=60)

    figures(
        "an edit made while there is no operator is enforced, from when there shall be one again, after",
        f"{time.monotonic() - started:.1f} s",
    )
    release.wait_until_ready()


@pytest.mark.usefixtures("zones_can_be_lost")
def test_an_api_server_that_is_restarted_under_the_operator_does_not_stop_it(release: Release, edited: str) -> None:
    """The same pod goes on where it was."""
    before = operator_pod(release)
    control_plane.kill_server()
    control_plane.start_server()
    release.tiers.edit(edited, **limited(60))

    eventually(lambda: release.tiers.is_ready(edited), seconds=60)

    assert operator_pod(release) == before


def test_a_thousand_tiers_are_all_enforced(release: Release, figures: Figures) -> None:
    """Within the memory that the chart gives the operator."""
    before = operator_pod(release)
    started = time.monotonic()
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        release.tiers.create(name, limited(10))

    eventually(lambda: len(release.tiers.names()) >= MANY and release.tiers.all_ready(), seconds=300)

    figures(f"{MANY} tiers, one after the other, all enforced after", f"{time.monotonic() - started:.0f} s")
    status = release.kubectl("exec", OPERATOR, "--", "cat", "/proc/1/status")
    now, peak = (re.search(rf"{field}:\s+(\d+) kB", status) for field in ("VmRSS", "VmHWM"))
    assert now
    assert peak
    figures(f"memory of the operator with {MANY} tiers", f"{int(now[1]) / 1024:.0f} MiB, {int(peak[1]) / 1024:.0f} MiB at most")
    assert operator_pod(release) == before
    for name in names:
        release.tiers.delete(name)
    # No later test is behind the end of so many.
    eventually(lambda: not any(set(names) & set(held) for held in release.stored()), seconds=60)


def operator_pod(release: Release) -> tuple[str, int]:
    """The operator's pod, and how often its container was started again."""
    (pod,) = release.pods("operator")
    return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]
