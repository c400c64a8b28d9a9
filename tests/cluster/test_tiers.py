"""Tiers as whoever runs the platform handles them: with kubectl, on real pods."""

import json
import statistics
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.conftest import Figures
from tests.cluster.release import Release
from tests.kube.processes import eventually
from tests.kube.tiers import limited

EDITS = 100
ENFORCED_SECONDS = 20


@pytest.fixture
def gold(release: Release) -> Iterator[str]:
    """The name of a tier that is enforced in both regions."""
    release.tiers.create("gold", {**limited(10), "displayName": "Gold"})
    release.kubectl("wait", "rlt/gold", "--for=condition=Ready", "--timeout=20s")
    yield "gold"
    release.kubectl("delete", "rlt/gold", "--ignore-not-found")


def limits(release: Release, tier: str) -> set[int]:
    """The limit that a token of the tier meets, region by region."""
    found = set()
    for region in ("frankfurt", "dublin"):
        with release.region(region, tier) as customer:
            found.add(int(customer.get("/v1/usage").json()["windows"][0]["limit"]))
    return found


def test_a_tier_that_is_edited_is_enforced_in_both_regions(release: Release, gold: str) -> None:
    """And listed so, because the workers said it: the active generation is the newest, in 2 of 2 regions."""
    edited = release.tiers.edit(gold, **limited(25))

    release.kubectl("wait", f"rlt/{gold}", "--for=condition=Ready", "--timeout=20s")
    eventually(lambda: release.tiers.is_ready(gold), seconds=ENFORCED_SECONDS)
    listed = dict(zip(*(line.split() for line in release.kubectl("get", "rlt", gold).splitlines()), strict=False))
    assert listed["ACTIVE"] == str(edited["metadata"]["generation"])
    assert listed["REGIONS"] == "2/2"
    assert limits(release, gold) == {25}


def test_an_edit_that_cannot_be_right_is_refused_and_the_last_good_one_stays(release: Release, gold: str) -> None:
    """The API server says what is wrong, in a sentence."""
    patch = json.dumps({"spec": {"idempotency": {"retention": "1h"}}})

    with pytest.raises(AssertionError, match=r"spec\.idempotency\.retention"):
        release.kubectl("patch", "rlt", gold, "--type=merge", f"--patch={patch}")

    assert limits(release, gold) == {10}


def test_tokens_of_a_deleted_tier_meet_the_default_tier(release: Release, gold: str) -> None:
    """Never no limit at all."""
    release.kubectl("delete", f"rlt/{gold}", "--timeout=20s")

    def tiers() -> set[Any]:
        found = set()
        for region in ("frankfurt", "dublin"):
            with release.region(region, gold) as customer:
                found.add(customer.get("/v1/usage").json()["tier"])
        return found

    eventually(lambda: tiers() == {"free"}, seconds=ENFORCED_SECONDS)


def test_an_edit_is_enforced_by_every_worker_within_a_second(release: Release, gold: str, figures: Figures) -> None:
    """From the API server's answer to the status that says so: 95 of 100 edits."""
    taken = sorted(release.seconds_until_enforced(gold, limit) for limit in range(1000, 1000 + EDITS))

    p50, p95 = statistics.median(taken), taken[int(EDITS * 0.95) - 1]
    figures(
        f"from kubectl apply to enforced by all workers of both regions, {EDITS} edits", f"p50 {p50 * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms"
    )
    assert p95 < 1
