"""Builds a tier's status from what the regions showed, without I/O; called by the reconciler."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidegate.contract.errors import Violation
from tidegate_operator.conditions import NEWER_GENERATION, conditions
from tidegate_operator.desired import DesiredTier, not_enforced
from tidegate_operator.lane_state import LaneState
from tidegate_operator.observation import Observation, RegionView

READY, PROGRESSING, UNREACHABLE = "Ready", "Progressing", "Unreachable"
MAXIMUM_PROBLEMS = 32
"""What the CRD takes."""


def build_status(tier: DesiredTier, observations: Sequence[Observation], lanes: Mapping[str, LaneState], *, now: str) -> dict[str, Any]:
    """The whole status. It equals `tier.status` when nothing changed; `now` (RFC 3339) marks the conditions that flipped.

    `lanes` are the dedicated cache lanes that we make for the tier, by region.
    """
    regions = [_region(tier, seen, lanes.get(seen.region)) for seen in observations]
    ready = sum(region["state"] == READY for region in regions)
    status = {
        "observedGeneration": tier.generation,
        "activeGeneration": _active_generation(tier, is_everywhere=all(_enforces(tier, seen) for seen in observations)),
        "contentHash": tier.document.content_hash if tier.document else tier.last_status.get("contentHash", ""),
        "regionsReady": f"{ready}/{len(regions)}",
        "regions": regions,
        "problems": [_problem(violation) for violation in _problems(tier)],
    }
    return status | {"conditions": conditions(tier, observations, regions, lanes, now=now)}


def is_enforced_everywhere(tier: DesiredTier, observations: Sequence[Observation]) -> bool:
    """Whether the status will say `Ready` of every region."""
    return all(_state(tier, seen) == READY for seen in observations)


def is_enforced(status: Mapping[str, Any]) -> bool:
    """Whether every region enforces what is wanted of it."""
    return all(region["state"] == READY for region in status.get("regions", ()))


def newly_superseded(tier: DesiredTier, status: Mapping[str, Any]) -> str:
    """What to tell people when `status` is the first to say that regions keep a newer generation than this one; else empty."""
    before, after = ({one.get("type"): one for one in found.get("conditions", ())} for found in (tier.last_status, status))
    told, programmed = before.get("Programmed", {}), after.get("Programmed", {})
    is_news = any(told.get(field) != programmed.get(field) for field in ("reason", "observedGeneration"))
    return str(after["Degraded"]["message"]) if is_news and programmed["reason"] == NEWER_GENERATION else ""


def summary(name: str, status: Mapping[str, Any]) -> str:
    """One line for people about where a tier is enforced."""
    parts = [_region_summary(region) for region in status["regions"]]
    verb = "enforced in " if is_enforced(status) else "not enforced everywhere: "
    return f"tier {name}: {verb}{', '.join(parts)}"


def _region_summary(region: Mapping[str, Any]) -> str:
    workers = region["workers"]
    if region["state"] == UNREACHABLE:
        return f"{region['name']} (unreachable)"
    return f"{region['name']} ({workers['applied']}/{workers['ready']} workers)"


def _region(tier: DesiredTier, seen: Observation, lane: LaneState | None) -> dict[str, Any]:
    before = {region["name"]: region.get("appliedGeneration", 0) for region in tier.last_status.get("regions", ())}
    stored = seen.document.generation if seen.document else 0
    view = seen.view or RegionView()
    region = {
        "name": seen.region,
        "state": _state(tier, seen),
        "appliedGeneration": before.get(seen.region, 0) if seen.view is None else stored,
        "workers": {"ready": view.ready, "applied": view.applied if seen.document else 0},
    }
    return region | ({"lane": {"state": lane.state, "message": lane.message}} if lane else {})


def _state(tier: DesiredTier, seen: Observation) -> str:
    if seen.view is None:
        return UNREACHABLE
    # A refused spec is the newest, and no region enforces that.
    return READY if _enforces(tier, seen) and not tier.violations else PROGRESSING


def _enforces(tier: DesiredTier, seen: Observation) -> bool:
    return tier.document is not None and seen.document == tier.document and seen.view is not None and seen.view.is_settled


def _active_generation(tier: DesiredTier, *, is_everywhere: bool) -> int:
    if tier.held_by is not None:
        return 0
    if tier.document and is_everywhere:
        return tier.document.generation
    return int(tier.last_status.get("activeGeneration", 0))


def _problems(tier: DesiredTier) -> tuple[Violation, ...]:
    unenforced = not_enforced(tier.document) if tier.document else ()
    return (tier.violations + unenforced)[:MAXIMUM_PROBLEMS]


def _problem(violation: Violation) -> dict[str, str]:
    # The lengths are what the CRD takes.
    return {"path": violation.path[:512], "reason": violation.reason[:128], "message": violation.message[:1024]}
