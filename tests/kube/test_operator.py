"""The operator on a real API server and two real regions: what workers enforce, what the status says, what it may do."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tests.conftest import Valkey
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import Program, eventually
from tests.kube.stage import Regions, everywhere, operator, seconds_until_enforced
from tests.kube.tiers import TierClient, limited
from tests.ports import free_port


def test_a_created_or_edited_tier_is_enforced_in_both_regions_within_a_second(
    running: Program, watched: TierClient, regions: Regions, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the API server's answer to the answers of the workers: p95 below a second."""
    delays = []
    for number in range(15):
        watched.create(f"timed-{number}", limited(100))
        delays.append(seconds_until_enforced(regions, f"timed-{number}", 100))
        watched.edit(f"timed-{number}", **limited(200))
        delays.append(seconds_until_enforced(regions, f"timed-{number}", 200))

    p95 = statistics.quantiles(delays, n=20)[-1]

    with capsys.disabled():
        print(f"\nenforced in two regions: p50 {statistics.median(delays):.3f} s, p95 {p95:.3f} s, max {max(delays):.3f} s")
    assert p95 < 1


def test_a_tier_edit_keeps_what_was_used(running: Program, watched: TierClient, regions: Regions) -> None:
    """RL-14: after two of two requests, a limit of three lets one more pass and not three."""
    frankfurt = regions[0]
    watched.create("used", limited(2))
    everywhere(regions, "used", 2)
    before = [frankfurt.get("/v1/tiers/used", tier="used").status_code for _ in range(3)]

    watched.edit("used", **limited(3))
    everywhere(regions, "used", 3)
    after = [frankfurt.get("/v1/tiers/used", tier="used").status_code for _ in range(2)]

    assert (before, after) == ([200, 200, 429], [200, 429])


def test_the_status_says_what_the_workers_enforce(running: Program, watched: TierClient, regions: Regions) -> None:
    """The promise "true status": the newest generation, everywhere, because the workers said so."""
    watched.create("reported", limited(1))
    watched.edit("reported", **limited(2))

    eventually(lambda: watched.is_ready("reported"), seconds=10)

    status = watched.read("reported")["status"]
    assert [region.limit("reported") for region in regions] == [2, 2]
    assert (status["observedGeneration"], status["activeGeneration"], status["regionsReady"]) == (2, 2, "2/2")
    assert {region["name"]: region["workers"] for region in status["regions"]} == {
        "frankfurt": {"ready": 1, "applied": 1},
        "dublin": {"ready": 1, "applied": 1},
    }


def test_a_deleted_tier_is_gone_from_every_region(running: Program, watched: TierClient, regions: Regions) -> None:
    """Its tokens meet the default tier, and nothing of the operator's holds the object back."""
    watched.create("deleted", limited(50))
    everywhere(regions, "deleted", 50)
    eventually(lambda: watched.is_ready("deleted"), seconds=5)
    assert not {"finalizers", "annotations"} & watched.read("deleted")["metadata"].keys()

    watched.delete("deleted")

    eventually(lambda: "deleted" not in watched.names(), seconds=5)
    everywhere(regions, "deleted", None)
    assert all("deleted" not in region.stored() for region in regions)


@pytest.mark.parametrize(("level", "is_told"), [("debug", True), ("info", False)])
def test_what_happened_to_a_tier_is_logged_and_each_event_is_for_debugging_alone(
    valkey: Valkey, tiers: TierClient, cluster: ControlPlane, tmp_path: Path, level: str, is_told: bool
) -> None:
    """With a thousand tiers, kopf's line for each would hide what the operator says itself."""
    region = SimpleNamespace(name="dublin", valkey=valkey)
    with operator(tmp_path, [region], cluster.admin_kubeconfig, tiers.namespace, TIDEGATE_OPERATOR_LOG_LEVEL=level) as program:
        for name in ("first", "second"):
            tiers.create(name, limited(30))
            # What is said of the second comes after the end of the first one's handler.
            program.wait_until(lambda name=name: f'"tier": "{name}"' in program.log.read_text(), seconds=20)

        assert ("'observe' succeeded" in program.log.read_text()) is is_told


def test_a_log_level_holds_for_the_libraries_too(
    watched: TierClient, regions: Regions, kubeconfig: Path, lanes: Mapping[str, str], tmp_path: Path
) -> None:
    """Quiet is quiet: no line of kopf's for an event, and none of aiohttp's for a probe."""
    quiet, health = operator(tmp_path, regions, kubeconfig, watched.namespace, **lanes), f"http://127.0.0.1:{free_port()}/healthz"
    quiet.command += ["--liveness", health]
    quiet.environment["TIDEGATE_OPERATOR_LOG_LEVEL"] = "warning"
    with quiet:
        quiet.wait_until(lambda: answers(health), seconds=20)

        watched.create("quiet", limited(30))
        everywhere(regions, "quiet", 30)
        eventually(lambda: watched.is_ready("quiet"), seconds=10)

        assert answers(health)
        assert quiet.last_words() == ""


def answers(url: str) -> bool:
    """Whether the operator calls itself alive."""
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def test_the_operator_may_do_what_it_needs_and_nothing_else(kubeconfig: Path, watched: TierClient, kubectl: Kubectl) -> None:
    """Its rights end at the tiers of its namespace: no Secret, no deletion, no other namespace."""
    tiers = "ratelimittiers.tidegate.dev"
    asked = [("list", tiers), ("patch", f"{tiers}/status"), ("patch", tiers), ("delete", tiers), ("create", tiers), ("get", "secrets")]

    granted = [one for one in asked if may(*one, watched.namespace, kubectl, kubeconfig)]

    assert granted == [("list", tiers), ("patch", f"{tiers}/status")]
    assert not may("list", tiers, "default", kubectl, kubeconfig)


def may(verb: str, resource: str, namespace: str, kubectl: Kubectl, kubeconfig: Path) -> bool:
    """Whether the API server grants it to whom the kubeconfig signs in."""
    name, _, subresource = resource.partition("/")
    question = ("auth", "can-i", verb, name, "--subresource", subresource, "--namespace", namespace)
    # The command fails when the answer is no.
    return kubectl(*question, "--kubeconfig", str(kubeconfig), check=False).strip() == "yes"
