"""Two operators as pods, of which one acts by a Lease: one is killed, or frozen until the other acts, or both are replaced."""

import json
import signal
from collections.abc import Iterator

import pytest
from tests.cluster.conftest import Figures
from tests.cluster.machines import send_to_pod
from tests.cluster.release import Release
from tests.kube.processes import eventually
from tests.kube.tiers import Json, limited

OPERATOR = "tidegate-operator"
TIER = "kept-by-two"
TAKEOVER_SECONDS = 20
"""What is promised."""


@pytest.fixture(scope="module")
def two(release: Release) -> Iterator[Release]:
    """The release with two operators, one of which has published a tier; at the end there is one again."""
    release.helm.upgrade("--reset-then-reuse-values", "--set", "operator.replicas=2")
    release.wait_until_ready()
    release.tiers.create(TIER, limited(10))
    eventually(lambda: release.tiers.is_ready(TIER), seconds=30)
    yield release
    release.tiers.delete(TIER)
    release.helm.upgrade("--reset-then-reuse-values", "--set", "operator.replicas=1")
    release.wait_until_ready()


def acting(release: Release) -> Json:
    """The pod of the operator that acts, as the Lease says."""

    def holder() -> Json | None:
        name = release.kubectl("get", "lease", OPERATOR, "--output", "jsonpath={.spec.holderIdentity}").rpartition("_")[0]
        return next((pod for pod in release.pods("operator") if pod["metadata"]["name"] == name), None)

    return eventually(holder, seconds=TAKEOVER_SECONDS) or {}


def restarts(release: Release, name: str) -> int:
    """How often the container of a pod has been started again."""
    (container,) = json.loads(release.kubectl("get", "pod", name, "--output", "json"))["status"]["containerStatuses"]
    return int(container["restartCount"])


@pytest.mark.usefixtures("zones_can_be_lost")
def test_another_operator_acts_within_twenty_seconds_of_the_death_of_the_one_that_did(two: Release, figures: Figures) -> None:
    """An edit that is made the moment it dies is enforced by then. Its pod is deleted by force, so that it does not come back itself."""
    killed = acting(two)
    name, place = killed["metadata"]["name"], (killed["spec"]["nodeName"], killed["metadata"]["uid"])
    send_to_pod(*place, signal.SIGKILL)
    two.kubectl("delete", "pod", name, "--grace-period=0", "--force")

    seconds = two.seconds_until_enforced(TIER, 20)

    figures("an edit made the moment the acting one of two operators is killed is enforced after", f"{seconds:.1f} s")
    assert acting(two)["metadata"]["name"] != name
    assert seconds < TAKEOVER_SECONDS
    two.wait_until_ready()


@pytest.mark.usefixtures("zones_can_be_lost")
def test_an_operator_that_was_frozen_until_another_acted_writes_nothing_when_it_wakes(two: Release, figures: Figures) -> None:
    """It would publish a tier whose object is gone, as it has not read yet that it went. It ends, and another start waits its turn."""
    frozen = acting(two)
    name, place = frozen["metadata"]["name"], (frozen["spec"]["nodeName"], frozen["metadata"]["uid"])
    two.tiers.create("passing", limited(10))
    eventually(lambda: two.tiers.is_ready("passing"), seconds=10)
    send_to_pod(*place, signal.SIGSTOP)
    seconds = two.seconds_until_enforced("passing", 20)
    two.tiers.delete("passing")
    eventually(lambda: not any("passing" in names for names in two.stored()), seconds=5)
    held, versions, begun, said = two.stored(), two.tiers.versions(), restarts(two, name), two.kubectl("logs", name)

    send_to_pod(*place, signal.SIGCONT)
    eventually(lambda: restarts(two, name) > begun, seconds=30)

    figures("an edit made the moment the acting one of two operators is frozen is enforced after", f"{seconds:.1f} s")
    words = two.kubectl("logs", name, "--previous").removeprefix(said)
    assert seconds < TAKEOVER_SECONDS
    assert "this operator ends" in words
    assert not [write for write in ("tier written", "tier retired") if write in words]
    assert (two.stored(), two.tiers.versions()) == (held, versions)
    assert acting(two)["metadata"]["name"] != name


def test_edits_are_enforced_while_both_operators_are_replaced_one_by_one(two: Release, figures: Figures) -> None:
    """One that is stopped in order hands over before it ends."""
    before = {pod["metadata"]["uid"] for pod in two.pods("operator")}
    two.kubectl("rollout", "restart", f"deployment/{OPERATOR}")
    taken: list[float] = []
    while not taken or "successfully rolled out" not in two.kubectl("rollout", "status", f"deployment/{OPERATOR}", "--watch=false"):
        taken.append(two.seconds_until_enforced(TIER, 100 + len(taken)))

    figures("edits while two operators are replaced one by one, each enforced after", f"{max(taken):.1f} s at most, {len(taken)} edits")
    assert max(taken) < TAKEOVER_SECONDS
    assert before.isdisjoint(pod["metadata"]["uid"] for pod in two.pods("operator"))
