"""Regions that are zones: where traffic goes, and what is left when one is lost. The store has a member in each of three zones."""

import json
import time
from collections.abc import Callable, Iterator

import pytest
from tests.cluster import cluster as own
from tests.cluster.conftest import Figures
from tests.cluster.layout import DUBLIN, FRANKFURT, NODES
from tests.cluster.notes import commands, paste
from tests.cluster.reach import Reach, start_stranger
from tests.cluster.release import Release
from tests.cluster.traffic import traffic
from tests.kube.chart import ROOT
from tests.kube.processes import eventually
from tests.kube.tiers import condition, limited

pytestmark = pytest.mark.usefixtures("zones_can_be_lost")
ZONES = [
    part
    for number, node in enumerate((FRANKFURT, DUBLIN))
    for part in ("--set", f"regions[{number}].name={node.name},regions[{number}].zone={node.name}")
]
STORE = ["--set", f"store.type=Etcd,store.etcd.failureDomains={{{','.join(node.name for node in NODES)}}}"]
# From the end of an endpoint until every node knows of it.
KNOWN_SECONDS = 3


@pytest.fixture(scope="module")
def zoned(release: Release, make_release: Callable[[str], Release]) -> Iterator[Release]:
    """Two regions, each in its zone, and a witness; the definition is the other release's."""
    installed = make_release("zoned")
    installed.helm.install(*installed.trusted, *ZONES, *STORE, "--set", "crds.enabled=false")
    installed.kubectl("apply", "--filename", str(ROOT / "k8s/tiers/"))
    installed.tiers.create("unlimited", limited(1_000_000))
    installed.wait_until_ready()
    eventually(installed.tiers.all_ready, seconds=60)
    yield installed
    installed.helm.uninstall()


@pytest.fixture
def stranger(zoned: Release) -> Iterator[Reach]:
    """A pod that is none of the release tries what a member of the store listens on: clients, members, metrics."""
    start_stranger(zoned)
    member = zoned.pods("store")[0]["status"]["podIP"]
    yield Reach(zoned, {"stranger": (zoned.namespace, "stranger")}, {str(port): f"{member}:{port}" for port in (2379, 2380, 2381)})
    zoned.kubectl("delete", "pod", "stranger", "--wait=false")


def test_members_are_told_never_to_begin_anew_as_the_notes_say(zoned: Release) -> None:
    """The commands as they are; the members take it up one by one, and what they hold is served."""
    wait, tell = commands(zoned.helm.notes(), "kubectl rollout status", "helm upgrade .*Formed")

    paste(zoned, wait)
    paste(zoned, tell)
    zoned.wait_until_ready()

    assert "Formed" not in zoned.helm.notes()
    with zoned.region("dublin", "pro", tenant="formed") as customer:
        assert customer.post("/v1/credits/purchases", {"amount": 100}, "an-order-of-the-formed").status == 201


def test_a_stranger_reaches_no_member_of_the_store_because_of_its_policy(zoned: Release, stranger: Reach) -> None:
    """Members and workers do, or there would be no store; without the policy the stranger would too."""
    refused = stranger.settled({"stranger": set()})
    zoned.kubectl("delete", "networkpolicy", "tidegate-store")
    reached = stranger.settled({"stranger": {"2379", "2380", "2381"}})
    zoned.helm.upgrade("--reset-then-reuse-values")

    assert (refused, reached) == ({"stranger": set()}, {"stranger": {"2379", "2380", "2381"}})
    assert stranger.settled({"stranger": set()}) == {"stranger": set()}


def test_traffic_stays_in_its_zone_while_both_are_up(zoned: Release, figures: Figures) -> None:
    """A client in each zone meets the region of that zone alone."""
    token = zoned.token("unlimited", tenant="local")
    for node in (FRANKFURT, DUBLIN):
        with traffic(zoned, token, zone=node.name) as met:
            pass  # it sends a hundred requests before the block begins

        figures(f"requests from zone {node.name}, by the region that answered", dict(met.regions()))
        assert set(met.regions()) == {node.name}
        assert met.failed() == []


def test_a_lost_zone_is_survived_and_comes_back(zoned: Release, figures: Figures) -> None:
    """A client of the witness's zone goes on with the other region; the status names the lost one; then all is as before."""
    token = zoned.token("unlimited", tenant="survivor")
    with traffic(zoned, token, zone="stockholm") as met:
        met.mark("lost")
        own.lose(FRANKFURT)
        eventually(lambda: degraded(zoned), seconds=60)
        figures("a lost zone is in the status of a tier after", f"{time.time() - met.marks['lost']:.1f} s")
        eventually(lambda: zones_of_endpoints(zoned) == {DUBLIN.name}, seconds=60)
        met.mark("noticed")
        figures("the endpoints of a lost zone are gone after", f"{met.marks['noticed'] - met.marks['lost']:.1f} s")
        own.bring_back(FRANKFURT)
        zoned.wait_until_ready()
        eventually(zoned.tiers.all_ready, seconds=60)
        met.mark("back")
        figures("a lost zone is all ready again after its return was begun", f"{met.marks['back'] - met.marks['noticed']:.1f} s")
        eventually(lambda: time.time() > met.marks["back"] + KNOWN_SECONDS, seconds=60)

    figures("failed requests, zone lost for good", f"{len(met.failed(until='noticed'))} of {len(met.between(until='noticed'))}")
    figures(
        "failed requests, after the loss was noticed and while it came back",
        f"{len(met.failed(since='noticed'))} of {len(met.between(since='noticed'))}",
    )
    assert [late for late in met.failed(since="noticed") if late.at > met.marks["noticed"] + KNOWN_SECONDS] == []
    assert met.regions(since="back")["frankfurt"] > 0


def degraded(release: Release) -> bool:
    """Whether a tier's status says which region does not enforce it."""
    found = condition(release.tiers.read("free"), "Degraded")
    return found.get("status") == "True" and "frankfurt" in found["message"]


def zones_of_endpoints(release: Release) -> set[str]:
    """The zones that the Service sends requests to."""
    found = release.kubectl("get", "endpointslices", "--selector", "kubernetes.io/service-name=tidegate", "--output", "json")
    endpoints = [endpoint for entry in json.loads(found)["items"] for endpoint in entry["endpoints"] or []]
    return {endpoint["zone"] for endpoint in endpoints if endpoint["conditions"]["ready"]}
