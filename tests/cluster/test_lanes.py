"""Dedicated cache lanes as pods: made, used, kept apart, changed and removed with their tier."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.release import Release
from tests.kube.processes import eventually
from tests.kube.tiers import Json, limited

from tidegate.local.client import Client

REGIONS = ("frankfurt", "dublin")
FLOOD = Path(__file__).with_name("flood.py")
KINDS = "statefulsets,pods,services,secrets,networkpolicies"
MEBIBYTE = 1024**2


def dedicated(mebibytes: int) -> Json:
    """A spec with a lane of so much memory."""
    return {**limited(1_000_000), "cache": {"lane": "Dedicated", "memory": f"{mebibytes}Mi", "ttl": "60s"}}


@pytest.fixture
def tiers(release: Release) -> Iterator[tuple[str, str]]:
    """Two tiers, each with a lane of 16 MiB in every region."""
    names = ("vault", "noisy")
    for name in names:
        release.tiers.create(name, dedicated(16))
    for name in names:
        release.kubectl("wait", f"rlt/{name}", "--for=condition=LaneReady", "--timeout=50s")
    yield names
    release.kubectl("delete", "rlt", *names, "--ignore-not-found")


def lanes(release: Release, tier: str) -> dict[str, Json]:
    """The running pods of a tier's lanes by their region."""
    found = json.loads(release.kubectl("get", "pods", "--selector", f"tidegate.dev/tier={tier}", "--output", "json"))["items"]
    return {pod["metadata"]["labels"]["tidegate.dev/region"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def memory(pod: Json) -> tuple[str, str, list[str]]:
    """What a lane's pod requests and may have at most, and what its server is told."""
    (container,) = pod["spec"]["containers"]
    arguments = container["args"]
    told = arguments[arguments.index("--maxmemory") :][1:2]
    return container["resources"]["requests"]["memory"], container["resources"]["limits"]["memory"], told


def restarts(release: Release, tier: str) -> int:
    """How often the server of a tier's lane in Frankfurt was started again."""
    return int(lanes(release, tier)["frankfurt"]["status"]["containerStatuses"][0]["restartCount"])


def cache_status(customer: Client, path: str) -> str:
    """What an answer says of the lane."""
    answer = customer.get(path)
    assert answer.status == 200
    return answer.headers["cache-status"]


def wait_for_a_hit(customer: Client, path: str) -> None:
    """Wait until an answer comes from the lane: nodes hear of a new one a moment after it is ready, and requests do without till then.

    One customer all along: an answer is kept for the host that it asked.
    """
    eventually(lambda: "Dedicated; hit" in cache_status(customer, path), seconds=10)


def bought(release: Release, tier: str) -> str:
    """Where the entry of a purchase is, which lanes keep."""
    with release.region("frankfurt", tier, tenant=tier) as customer:
        answer = customer.post("/v1/credits/purchases", {"amount": 100}, f"a-purchase-of-{tier}")
    return f"/v1/credits/purchases/{answer.json()['id']}"


def test_a_tiers_lanes_have_the_memory_it_asks_for_and_answer_in_each_region(release: Release, tiers: tuple[str, str]) -> None:
    """A pod in each region, with a quarter and 32 MiB above what is kept; answers come from it."""
    tier, _ = tiers
    path = bought(release, tier)

    found = lanes(release, tier)

    assert {region: memory(pod) for region, pod in found.items()} == dict.fromkeys(REGIONS, ("52Mi", "52Mi", ["16mb"]))
    for region in REGIONS:
        with release.region(region, tier, tenant=tier) as customer:
            wait_for_a_hit(customer, path)


def test_a_neighbour_that_fills_its_lane_takes_nothing_from_another(release: Release, tiers: tuple[str, str]) -> None:
    """Four times what fits into the neighbour's: it drops its own, and the other lane still answers."""
    tier, noisy = tiers
    path = bought(release, tier)
    before = [restarts(release, name) for name in tiers]
    with release.region("frankfurt", tier, tenant=tier) as customer:
        wait_for_a_hit(customer, path)

        flood = ("exec", "--stdin", "deployment/tidegate-api-frankfurt", "--", "python", "-", noisy, "64")
        kept = int(release.kubectl(*flood, stdin=FLOOD.read_text()))

        assert 0 < kept * 65536 < 16 * MEBIBYTE
        assert "Dedicated; hit" in cache_status(customer, path)
    assert [restarts(release, name) for name in tiers] == before


def test_lanes_roll_when_their_memory_changes_and_end_with_their_tier(release: Release, tiers: tuple[str, str]) -> None:
    """No pod, Service or Secret of it is left."""
    tier, _ = tiers
    release.tiers.edit(tier, cache=dedicated(32)["cache"])

    def rolled() -> bool:
        return {region: memory(pod) for region, pod in lanes(release, tier).items()} == dict.fromkeys(REGIONS, ("72Mi", "72Mi", ["32mb"]))

    eventually(rolled, seconds=60)
    release.kubectl("wait", f"rlt/{tier}", "--for=condition=LaneReady", "--timeout=50s")
    release.kubectl("delete", f"rlt/{tier}")

    eventually(lambda: release.kubectl("get", KINDS, "--selector", f"tidegate.dev/tier={tier}", "--output", "name") == "", seconds=90)
