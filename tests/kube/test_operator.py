"""The operator on a real API server, two real regions and the rights of the chart: what workers enforce, and what the status says."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import Program, eventually
from tests.kube.stage import DEFAULT_TIER, Region, everywhere, operator, two_regions
from tests.kube.tiers import Json, TierClient, condition, spec, window

NAMESPACE = "operator-tests"
Regions = tuple[Region, Region]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    """Frankfurt and Dublin."""
    with two_regions(tmp_path_factory.mktemp("regions")) as running:
        yield running


@pytest.fixture(scope="module")
def watched(api: client.ApiClient, crd: Json) -> TierClient:
    """The tiers of the namespace that the operator watches; the default tier is there."""
    client.CoreV1Api(api).create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    tiers = TierClient(api, NAMESPACE)
    tiers.create(DEFAULT_TIER, limited(10))
    return tiers


@pytest.fixture(scope="module")
def kubeconfig(watched: TierClient, cluster: ControlPlane, kubectl: Kubectl, chart_role: Kubectl) -> Path:
    """Signs in as the service account of the chart, which may do what the chart's Role says and nothing else."""
    account = chart_role(NAMESPACE)
    token = kubectl("create", "token", account, "--namespace", NAMESPACE, "--duration", "1h").strip()
    return cluster.kubeconfig("operator", token)


@pytest.fixture(scope="module")
def running(regions: Regions, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The operator; every region enforces the default tier."""
    with operator(tmp_path_factory.mktemp("operator"), regions, kubeconfig, NAMESPACE) as program:
        everywhere(regions, DEFAULT_TIER, 10)
        yield program


def limited(limit: int) -> Json:
    """A spec with one window of an hour."""
    return spec(windows=[window(limit=limit, period="1h")])


def seconds_until_enforced(regions: Regions, tier: str, limit: int) -> float:
    """How long the workers of both regions take to enforce a limit that was accepted just now."""
    started = time.monotonic()
    everywhere(regions, tier, limit)
    return time.monotonic() - started


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
    """Its tokens meet the default tier, and the object doesn't linger."""
    watched.create("deleted", limited(50))
    everywhere(regions, "deleted", 50)

    watched.delete("deleted")

    eventually(lambda: "deleted" not in watched.names(), seconds=5)
    everywhere(regions, "deleted", None)
    assert all("deleted" not in region.stored() for region in regions)


def test_an_emptied_redis_is_refilled_within_two_seconds(running: Program, watched: TierClient, regions: Regions) -> None:
    """A Redis that lost its memory gets every tier again, and the revision goes on rising."""
    frankfurt = regions[0]
    watched.create("refilled", limited(70))
    everywhere(regions, "refilled", 70)
    stored, revision = frankfurt.stored(), frankfurt.revision()

    frankfurt.valkey.flush()

    eventually(lambda: frankfurt.stored() == stored, seconds=2)
    eventually(lambda: frankfurt.limit("refilled") == 70, seconds=2)
    assert frankfurt.revision() > revision


def test_a_lost_region_holds_up_no_other_and_catches_up(running: Program, watched: TierClient, regions: Regions) -> None:
    """While its Redis is down the status says so; once it is back it enforces the newest generation."""
    frankfurt, dublin = regions
    watched.create("partial", limited(80))
    eventually(lambda: watched.is_ready("partial"), seconds=10)
    frankfurt.valkey.kill()

    watched.edit("partial", **limited(90))
    eventually(lambda: dublin.limit("partial") == 90, seconds=2)
    eventually(lambda: condition(watched.read("partial"), "Degraded").get("status") == "True", seconds=5)
    lost = watched.read("partial")
    frankfurt.valkey.start()
    everywhere(regions, "partial", 90)

    assert condition(lost, "Ready")["reason"] == "RegionUnreachable"
    assert {region["name"]: region["state"] for region in lost["status"]["regions"]} == {"frankfurt": "Unreachable", "dublin": "Ready"}
    assert lost["status"]["activeGeneration"] == 1
    eventually(lambda: watched.is_ready("partial"), seconds=10)


def test_a_lost_region_delays_a_deletion_but_does_not_prevent_it(
    running: Program, watched: TierClient, regions: Regions, kubectl: Kubectl
) -> None:
    """The object goes after the grace, an event says where the tier still is, and the region drops it when it returns."""
    frankfurt = regions[0]
    watched.create("orphaned", limited(60))
    everywhere(regions, "orphaned", 60)
    frankfurt.valkey.kill()

    watched.delete("orphaned")

    eventually(lambda: "orphaned" not in watched.names(), seconds=10)
    eventually(lambda: "frankfurt" in kubectl("get", "events", "--namespace", NAMESPACE), seconds=5)
    frankfurt.valkey.start()
    everywhere(regions, "orphaned", None)
    eventually(lambda: "orphaned" not in frankfurt.stored(), seconds=5)


def test_the_operator_may_do_what_it_needs_and_nothing_else(kubeconfig: Path, kubectl: Kubectl) -> None:
    """Its rights end at the tiers of its namespace: no Secret, no deletion, no other namespace."""
    asked = {
        "patch ratelimittiers.tidegate.dev --subresource=status": NAMESPACE,
        "list ratelimittiers.tidegate.dev": NAMESPACE,
        "delete ratelimittiers.tidegate.dev": NAMESPACE,
        "get secrets": NAMESPACE,
        "list ratelimittiers.tidegate.dev ": "default",
    }

    granted = [question.strip() for question, where in asked.items() if may(kubectl, kubeconfig, question, where)]

    assert granted == ["patch ratelimittiers.tidegate.dev --subresource=status", "list ratelimittiers.tidegate.dev"]


def may(kubectl: Kubectl, kubeconfig: Path, question: str, namespace: str) -> bool:
    """Whether the API server grants it to whom the kubeconfig signs in; the command fails when it doesn't, so its word is read."""
    arguments = ("auth", "can-i", *question.split(), "--namespace", namespace, "--quiet=false", "--kubeconfig", str(kubeconfig))
    return kubectl(*arguments, check=False).strip() == "yes"


def test_two_operators_at_once_do_no_harm(
    running: Program, watched: TierClient, regions: Regions, kubeconfig: Path, tmp_path: Path
) -> None:
    """A second one, as during a rollout, neither rolls a tier back nor fights over it."""
    with operator(tmp_path, regions, kubeconfig, NAMESPACE):
        for number in range(20):
            watched.create(f"shared-{number}", limited(100))
            watched.edit(f"shared-{number}", **limited(200))
        names = [f"shared-{number}" for number in range(20)]
        eventually(lambda: all(watched.is_ready(name) for name in names), seconds=20)
        settled = [(region.stored(), region.revision()) for region in regions], watched.versions()
        time.sleep(3)  # what must not happen has no event to wait for: two resyncs of a watch and a few heartbeats

        assert ([(region.stored(), region.revision()) for region in regions], watched.versions()) == settled
    assert [regions[0].limit(name) for name in names] == [200] * 20


def test_a_restarted_operator_takes_up_two_hundred_tiers_and_touches_none_that_is_right(
    running: Program, watched: TierClient, regions: Regions, capsys: pytest.CaptureFixture[str]
) -> None:
    """What changed while it was away is enforced soon after; what didn't isn't written again."""
    names = [f"many-{number}" for number in range(200)]
    for name in names:
        watched.create(name, limited(100))
    eventually(lambda: all(watched.is_ready(name) for name in names[::50]), seconds=30)
    eventually(watched.all_ready, seconds=30)
    running.stop()
    before = watched.versions()
    watched.edit("many-7", **limited(200))

    running.start()
    seconds = seconds_until_enforced(regions, "many-7", 200)
    eventually(lambda: watched.is_ready("many-7"), seconds=10)

    with capsys.disabled():
        print(f"\nenforced {seconds:.1f} s after the start of an operator with 200 tiers")
    after = watched.versions()
    assert seconds < 10
    assert {name for name in before if before[name] != after[name]} == {"many-7"}
