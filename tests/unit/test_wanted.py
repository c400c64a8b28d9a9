"""Of what events and listings say, the newest counts, in whatever order they come."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.wanted import WantedTiers


def wanted(name: str = "free", uid: str = "a", generation: int = 1, created: int = 0, version: int = 0, limit: int = 1) -> DesiredTier:
    spec = {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}
    tier = desired_tier(name, uid, generation, spec, status={}, created=f"2026-11-25T12:00:{created:02}Z")
    return replace(tier, resource_version=version)


TIERS = st.builds(
    wanted,
    st.sampled_from(["free", "pro"]),
    st.sampled_from("ab"),
    *(st.integers(1, 3), st.integers(0, 2), st.integers(0, 3)),
    limit=st.integers(1, 2),
)


@pytest.fixture
def tiers() -> WantedTiers:
    return WantedTiers()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(wanted(generation=2), wanted(generation=1), 2, id="an older generation"),
        pytest.param(wanted(uid="a", created=1, version=10), wanted(uid="b", generation=3, created=0, version=20), 3, id="a clock behind"),
        pytest.param(wanted(uid="b", generation=3, created=0, version=20), wanted(uid="a", created=1, version=10), 3, id="late news"),
        pytest.param(wanted(uid="a", created=1), wanted(uid="b", generation=3, created=2), 3, id="versions that are no numbers"),
    ],
)
def test_an_event_is_of_the_newest_object_by_the_order_of_its_versions(
    tiers: WantedTiers, first: DesiredTier, second: DesiredTier, expected: int
):
    """Clocks of API servers differ, so the time of creation decides only where there is nothing else."""
    for tier in (first, second):
        tiers.put(tier)

    assert tiers.tiers["free"].generation == expected


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=12))
def test_a_name_that_nobody_wants_any_more_leaves_whichever_of_its_objects_a_region_holds(steps: list[tuple[bool, int]]):
    """Made, deleted, made and deleted within a moment: events of its objects come in any order, and between looks at the region."""
    tiers, held, ages = WantedTiers(), "", dict.fromkeys("abcd", 0)

    def look() -> str:
        if departure := tiers.departures.get("free"):
            tiers.end("free", departure)
            return "" if held in departure.uids else held
        return tiers.tiers["free"].uid if tiers.tiers else held

    def tell(uid: str) -> None:
        ages[uid] += 1
        if ages[uid] == 1:
            tiers.put(wanted(uid=uid, version=ord(uid)))
        elif ages[uid] == 2:
            tiers.remove("free", uid)

    for looks, which in steps + [(False, which) for which in range(4) for _ in range(2)]:
        tell("abcd"[which])
        held = look() if looks else held

    assert look() == ""
    assert (tiers.tiers, tiers.departures, tiers._uids) == ({}, {}, {})


@given(st.lists(TIERS, max_size=4), st.lists(TIERS, unique_by=lambda tier: tier.name))
def test_a_complete_listing_that_began_after_the_last_event_is_what_is_wanted(events: list[DesiredTier], listed: list[DesiredTier]):
    """The end of an object may have been missed, and data restored from a backup brings older generations back."""
    tiers = WantedTiers()
    for tier in events:
        tiers.put(tier)

    tiers.merge({tier.name: tier for tier in listed}, started=time.monotonic() + 1, is_complete=True)

    assert sorted(tiers.tiers) == sorted(tier.name for tier in listed)
    assert all(tiers.tiers[tier.name].document == tier.document for tier in listed)


@pytest.mark.parametrize(("is_complete", "seconds"), [(False, 1), (True, -1)])
def test_an_older_generation_is_not_taken_from_an_incomplete_listing_or_one_that_began_before_the_last_event(
    tiers: WantedTiers, is_complete: bool, seconds: float
):
    tiers.put(wanted(generation=2))

    tiers.merge({"free": wanted(generation=1)}, started=time.monotonic() + seconds, is_complete=is_complete)

    assert tiers.tiers["free"].generation == 2


def test_a_last_good_spec_is_adopted_though_a_status_was_written_or_an_edit_refused_meanwhile(tiers: WantedTiers):
    """The look for it in a region takes its time."""
    refused = desired_tier("free", "a", 2, {"windows": []}, status={})
    tiers.put(refused)
    tiers.note_status(refused, {"observedGeneration": 2})
    tiers.put(replace(refused, generation=3, status={"observedGeneration": 2}))
    good = wanted().document
    assert good

    tiers.adopt(refused, good)

    assert tiers.tiers["free"].document == good
    assert tiers.tiers["free"].generation == 3
