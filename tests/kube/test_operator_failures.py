"""The operator when things fail around it: an emptied Redis, a lost region, a second operator, a restart."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import kopf
import pytest
from tests.kube.control_plane import ADMIN_TOKEN, ControlPlane
from tests.kube.processes import Program, eventually
from tests.kube.stage import Regions, everywhere, operator, seconds_until_enforced, watchers
from tests.kube.tiers import Json, TierClient, condition, limited

from tidegate_operator.api import TierApi
from tidegate_operator.errors import ReportError
from tidegate_operator.kubernetes_api import KubernetesApi


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
    # Frankfurt stays away all that time: whoever waited for it would wait in vain.
    eventually(lambda: dublin.limit("partial") == 90, seconds=10)
    eventually(lambda: states(watched.read("partial")) == {"frankfurt": "Unreachable", "dublin": "Ready"}, seconds=10)
    lost = watched.read("partial")
    frankfurt.valkey.start()
    everywhere(regions, "partial", 90)
    eventually(lambda: watched.is_ready("partial"), seconds=10)
    # A busy worker may go on saying for a while that it does not decide limits.
    eventually(lambda: condition(watched.read("partial"), "Degraded")["status"] == "False", seconds=10)

    assert lost["status"]["activeGeneration"] == 1
    assert condition(lost, "Ready")["reason"] == "RegionUnreachable"
    assert condition(lost, "Degraded")["status"] == "True"


def states(tier: Json) -> dict[str, str]:
    """The state of each region in a tier's status."""
    return {region["name"]: region["state"] for region in tier["status"]["regions"]}


def degraded(tiers: TierClient) -> list[str]:
    """Names of the tiers that some region does not answer for."""
    return [name for name in tiers.names() if condition(tiers.read(name), "Degraded").get("status") == "True"]


def test_a_lost_region_does_not_hold_up_a_deletion(running: Program, watched: TierClient, regions: Regions) -> None:
    """The object goes at once, the other region drops the tier at once, and the lost one when it returns."""
    frankfurt = regions[0]
    watched.create("orphaned", limited(60))
    everywhere(regions, "orphaned", 60)
    frankfurt.valkey.kill()

    watched.delete("orphaned")

    assert "orphaned" not in watched.names()
    eventually(lambda: "orphaned" not in regions[1].stored(), seconds=10)
    frankfurt.valkey.start()
    everywhere(regions, "orphaned", None)
    eventually(lambda: "orphaned" not in frankfurt.stored(), seconds=10)


def test_two_operators_at_once_do_no_harm(
    running: Program, watched: TierClient, regions: Regions, kubeconfig: Path, lanes: Mapping[str, str], tmp_path: Path
) -> None:
    """A second one, as during a rollout, neither rolls a tier back nor fights over it."""
    with operator(tmp_path, regions, kubeconfig, watched.namespace, **lanes) as second:
        second.wait_until(lambda: all(watchers(region.valkey) == 2 for region in regions), seconds=20)
        for number in range(20):
            watched.create(f"shared-{number}", limited(100))
            watched.edit(f"shared-{number}", **limited(200))
        names = [f"shared-{number}" for number in range(20)]
        eventually(lambda: all(watched.is_ready(name) for name in names), seconds=20)
        # A region that was lost a test ago may be news for the status of any tier until now.
        eventually(lambda: watched.all_ready() and not degraded(watched), seconds=20)
        settled = [region.revision() for region in regions], watched.versions()
        # What must not happen has no event to wait for: a few polls of each operator and heartbeats of each worker.
        time.sleep(3)

        assert ([region.revision() for region in regions], watched.versions()) == settled
    assert [regions[0].limit(name) for name in names] == [200] * 20


def test_a_restarted_operator_takes_up_two_hundred_tiers_and_touches_none_that_is_right(
    running: Program, watched: TierClient, regions: Regions, capsys: pytest.CaptureFixture[str]
) -> None:
    """What changed while it was away is enforced soon after; what didn't isn't written again."""
    names = [f"many-{number}" for number in range(200)]
    started = time.monotonic()
    for name in names:
        watched.create(name, limited(100))
    burst_seconds = time.monotonic() - started
    watched.edit("many-8", **limited(200))
    # Behind a burst an edit waits for no more than the machine is busy with that.
    assert seconds_until_enforced(regions, "many-8", 200) < 1 + burst_seconds
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


async def test_a_status_for_an_object_that_was_made_anew_is_not_taken_for_written(cluster: ControlPlane, tiers: TierClient) -> None:
    """The new one keeps its own: else it would be called enforced before it is."""
    remade = tiers.create("remade", limited(10))
    connection = kopf.ConnectionInfo(server=cluster.url, ca_path=str(cluster.authority), token=ADMIN_TOKEN)
    kubernetes = KubernetesApi(lambda: connection, tiers.namespace)
    api = TierApi(kubernetes)
    tier = api.read(remade)

    with pytest.raises(ReportError, match="422"):
        await api.report(replace(tier, uid="00000000-0000-4000-8000-000000000000"), {"regionsReady": "0/1"})
    untouched = tiers.read("remade")
    await api.report(tier, {"regionsReady": "1/1"})
    await kubernetes.aclose()

    assert "status" not in untouched
    assert tiers.read("remade")["status"] == {"regionsReady": "1/1"}
