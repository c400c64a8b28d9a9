"""A tier survives its spec, and a bad spec is refused with every violation at once, each with its path."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.errors import InvalidTierError
from tidegate.contract.tier import Admission, Cache, CostRule, Enforcement, Lane, OnStoreLoss, PartitionBy, Tier, Unit, Window

MINIMAL: dict[str, Any] = {"windows": [{"name": "minute", "limit": 60, "period": "1m"}]}

window_names = st.from_regex(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?", fullmatch=True)
days = st.integers(86_400, 744 * 3600)
windows = st.builds(
    Window, name=window_names, limit=st.integers(1, 2**53 - 1), period_seconds=st.integers(1, 744 * 3600), unit=st.sampled_from(Unit)
)
costs = st.builds(
    CostRule,
    path=st.from_regex(r"/[A-Za-z0-9._~{}/-]{0,40}", fullmatch=True),
    cost=st.integers(0, 1_000_000),
    methods=st.lists(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]), unique=True).map(tuple),
)
admissions = st.builds(Admission, st.integers(1, 1_000), st.integers(1, 10_000), st.integers(0, 60_000), st.integers(0, 100_000))
freshness = {"ttl_seconds": st.integers(1, 86_400), "stale_while_revalidate_seconds": st.integers(0, 86_400)}
caches = st.builds(Cache, lane=st.sampled_from([Lane.NONE, Lane.SHARED]), **freshness) | st.builds(
    Cache, lane=st.just(Lane.DEDICATED), memory_mebibytes=st.integers(16, 999_999) | st.just(1024 * 1024), **freshness
)
tiers = st.builds(
    Tier,
    name=st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True),
    windows=st.lists(windows, min_size=1, max_size=8, unique_by=lambda window: window.name).map(tuple),
    display_name=st.text(max_size=63),
    enforcement=st.sampled_from(Enforcement),
    partition_by=st.sampled_from(PartitionBy),
    costs=st.lists(costs, max_size=16).map(tuple),
    admission=admissions,
    cache=caches,
    retention_seconds=days,
    on_store_loss=st.sampled_from(OnStoreLoss),
)


def violations(spec: object, name: str = "free") -> dict[str, str]:
    with pytest.raises(InvalidTierError) as caught:
        Tier.from_spec(name, spec)
    return {violation.path: violation.reason for violation in caught.value.violations}


@given(tier=tiers)
def test_a_tier_survives_its_own_spec(tier: Tier) -> None:
    assert Tier.from_spec(tier.name, json.loads(json.dumps(tier.to_spec()))) == tier


@given(tier=tiers)
def test_equal_content_has_an_equal_hash_and_any_change_another(tier: Tier) -> None:
    again = Tier.from_spec("other-name", tier.to_spec())
    changed = Tier.from_spec(tier.name, tier.to_spec() | {"enforcement": "Enforce" if tier.enforcement == "Shadow" else "Shadow"})

    assert again.content_hash == tier.content_hash
    assert changed.content_hash != tier.content_hash


def test_the_smallest_spec_has_every_default() -> None:
    assert Tier.from_spec("free", MINIMAL) == Tier("free", (Window("minute", 60, 60),))
    assert Tier.from_spec("free", MINIMAL).to_spec() == {
        "enforcement": "Enforce",
        "partitionBy": "Token",
        "windows": [{"name": "minute", "limit": 60, "period": "60s", "unit": "Requests"}],
        "costs": [],
        "admission": {"weight": 1, "maxInFlight": 100, "queue": {"maxWait": "1000ms", "maxDepth": 100}},
        "cache": {"lane": "None", "ttl": "60s", "staleWhileRevalidate": "0s"},
        "idempotency": {"retention": "24h0s"},
        "degradation": {"onStoreLoss": "Local"},
    }


def test_every_violation_is_reported_at_once_with_its_path() -> None:
    spec = {
        "displayName": "x" * 64,
        "enforcement": "Maybe",
        "windows": [
            {"name": "a", "limit": 0, "period": "1m"},
            {"name": "a", "limit": True, "period": "1ms", "unit": "Bytes"},
            {"limit": 1.5, "period": "745h", "burst": 1},
        ],
        "costs": [{"path": "exports", "cost": -1, "methods": ["GET", "GET", "TRACE"]}],
        "admission": {"weight": 0, "queue": {"maxWait": "61s", "depth": 1}},
        "cache": {"lane": "Dedicated"},
        "idempotency": {"retention": "23h"},
        "degradation": [],
        "burst": 1,
    }

    assert violations(spec, "Free") == {
        "metadata.name": "Invalid",
        "spec.displayName": "Invalid",
        "spec.enforcement": "Invalid",
        "spec.windows[0].limit": "Invalid",
        "spec.windows[1].limit": "Invalid",
        "spec.windows[1].period": "Invalid",
        "spec.windows[1].unit": "Invalid",
        "spec.windows[1].name": "Duplicate",
        "spec.windows[2].name": "Required",
        "spec.windows[2].limit": "Invalid",
        "spec.windows[2].period": "Invalid",
        "spec.windows[2].burst": "Unknown",
        "spec.costs[0].path": "Invalid",
        "spec.costs[0].cost": "Invalid",
        "spec.costs[0].methods[1]": "Duplicate",
        "spec.costs[0].methods[2]": "Invalid",
        "spec.admission.weight": "Invalid",
        "spec.admission.queue.maxWait": "Invalid",
        "spec.admission.queue.depth": "Unknown",
        "spec.cache.memory": "Invalid",
        "spec.idempotency.retention": "Invalid",
        "spec.degradation": "Invalid",
        "spec.burst": "Unknown",
    }


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "spec.windows"),
        ({"windows": None}, "spec.windows"),
        ({"windows": []}, "spec.windows"),
        ({"windows": [{"name": f"w{n}", "limit": 1, "period": "1s"} for n in range(9)]}, "spec.windows"),
        ({"windows": [None]}, "spec.windows[0]"),
        (MINIMAL | {"cache": {"memory": "16Mi"}}, "spec.cache.memory"),
        (MINIMAL | {"cache": {"lane": "Dedicated", "memory": "15Mi"}}, "spec.cache.memory"),
        (MINIMAL | {"costs": [{"path": "/", "cost": 1, "methods": []}]}, "spec.costs[0].methods"),
        (MINIMAL | {"displayName": ""}, "spec.displayName"),
        (None, "spec"),
        ([], "spec"),
        ("free", "spec"),
    ],
    ids=str,
)
def test_a_bad_spec_is_refused_at_its_path(spec: object, path: str) -> None:
    assert path in violations(spec)


@pytest.mark.parametrize("name", ["", "a" * 64, "-a", "a-", "A", "a.b", "a\n", "ü"])
def test_a_name_that_is_no_dns_label_is_refused(name: str) -> None:
    assert violations(MINIMAL, name) == {"metadata.name": "Invalid"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(tier=tiers, values=st.dictionaries(st.sampled_from(sorted(Tier.from_spec("free", MINIMAL).to_spec())), json_values))
def test_no_value_raises_anything_but_a_refusal(tier: Tier, values: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidTierError):
        Tier.from_spec(tier.name, tier.to_spec() | values)


def test_a_quoted_value_is_cut_and_half_a_surrogate_pair_refused():
    """Neither floods a log nor breaks an encoder further on."""
    window = {"name": "minute", "limit": 1, "period": "1m"}

    with pytest.raises(InvalidTierError) as caught:
        Tier.from_spec("free", {"windows": [window], "displayName": "\ud800", "enforcement": "x" * 100_000})

    assert len(str(caught.value)) < 400
    assert {violation.path for violation in caught.value.violations} == {"spec.displayName", "spec.enforcement"}
