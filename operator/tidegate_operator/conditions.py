"""The conditions of a tier, as metav1.Condition, without I/O; called by `status.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate_operator.desired import DesiredTier
from tidegate_operator.lane_state import FAILED, PROGRESSING, READY, LaneState
from tidegate_operator.observation import Observation
from tidegate_operator.plan import is_newer

NEWER_GENERATION = "NewerGeneration"
"""Reason of `Degraded`, `Programmed` and `Ready` where a region keeps a newer generation: somebody's data or clock went back."""
TROUBLES = ("RegionUnreachable", "WriteRefused", NEWER_GENERATION, "NoReadyWorkers", "LimitsNotDecided")
"""Reasons of `Degraded`, the worst first."""
DELETING = "Deleting"
"""Reason of `Programmed` and `Ready` once a tier's object was deleted and finalizers hold it, as other controllers call it."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    kind: str
    holds: bool
    reason: str
    message: str


def conditions(
    tier: DesiredTier,
    observations: Sequence[Observation],
    regions: Sequence[Mapping[str, Any]],
    lanes: Mapping[str, LaneState],
    *,
    now: str,
) -> list[dict[str, Any]]:
    """Accepted, Programmed, Degraded, Ready, and LaneReady where there are lanes; each keeps the time of its last flip, or takes `now`."""
    verdicts = [_accepted(tier), _programmed(tier, observations), _degraded(tier, observations), _ready(tier, observations, regions)]
    verdicts += [_lane_ready(lanes)] if lanes else []
    before = {condition.get("type"): condition for condition in tier.last_status.get("conditions", ())}
    return [_condition(verdict, before.get(verdict.kind, {}), tier.generation, now) for verdict in verdicts]


def _condition(verdict: _Verdict, before: Mapping[str, Any], generation: int, now: str) -> dict[str, Any]:
    status = str(verdict.holds)
    has_flipped = before.get("status") != status
    return {
        "type": verdict.kind,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": now if has_flipped else before.get("lastTransitionTime", now),
        "reason": verdict.reason,
        "message": verdict.message,
    }


def _accepted(tier: DesiredTier) -> _Verdict:
    if tier.violations:
        return _Verdict("Accepted", False, "InvalidSpec", f"{_refusal(tier)}: {'; '.join(map(str, tier.violations))}"[:4096])
    return _Verdict("Accepted", True, "Accepted", "The spec is valid")


def _refusal(tier: DesiredTier) -> str:
    kept = f"generation {tier.document.generation} stays enforced" if tier.document else "what was published before stays"
    return f"Generation {tier.generation} is refused, {kept}"


def _programmed(tier: DesiredTier, observations: Sequence[Observation]) -> _Verdict:
    if tier.held_by is not None:
        holding = [seen.region for seen in observations if seen.document or seen.view is None]
        return _Verdict(
            "Programmed", False, DELETING, f"Not yet retired in {', '.join(holding)}" if holding else "No region holds it any more"
        )
    if tier.violations:
        return _Verdict("Programmed", False, "InvalidSpec", _refusal(tier))
    missing = [seen.region for seen in observations if seen.document != tier.document]
    if not missing:
        return _Verdict("Programmed", True, "Programmed", "Every region holds this generation")
    reason = "Pending"
    if any(_newer_generation(tier, seen) for seen in observations):
        reason = NEWER_GENERATION
    elif all(seen.problem for seen in observations if seen.region in missing):
        reason = "RegionUnreachable" if all(seen.view is None for seen in observations if seen.region in missing) else "WriteRefused"
    return _Verdict("Programmed", False, reason, f"Not published in {', '.join(missing)}")


def _degraded(tier: DesiredTier, observations: Sequence[Observation]) -> _Verdict:
    found = [trouble for seen in observations if (trouble := _newer_generation(tier, seen) or _trouble(seen))]
    if not found:
        return _Verdict("Degraded", False, "AsExpected", "Every region answers, has workers and decides limits")
    worst = min((reason for reason, _ in found), key=TROUBLES.index)
    return _Verdict("Degraded", True, worst, "; ".join(message for _, message in found))


def _newer_generation(tier: DesiredTier, seen: Observation) -> tuple[str, str] | None:
    if tier.document is None or seen.stored is None or not is_newer(seen.stored, tier.document):
        return None
    held, wanted = seen.stored.generation, tier.document.generation
    return NEWER_GENERATION, f"{seen.region}: it keeps generation {held}, newer than {wanted}; delete the tier and create it again"


def _trouble(seen: Observation) -> tuple[str, str] | None:
    if seen.view is None:
        return "RegionUnreachable", f"{seen.region}: {seen.problem}, so its workers may not decide limits"
    if seen.problem:
        return "WriteRefused", f"{seen.region}: {seen.problem}"
    if not seen.view.ready:
        return "NoReadyWorkers", f"{seen.region}: no ready worker reports, so none decides limits by its Redis"
    if seen.view.undecided:
        return "LimitsNotDecided", f"{seen.region}: its Redis does not decide limits for some workers, so onStoreLoss does"
    return None


def _ready(tier: DesiredTier, observations: Sequence[Observation], regions: Sequence[Mapping[str, Any]]) -> _Verdict:
    if tier.held_by is not None:
        message = f"It was deleted, and its tokens meet the default tier; its object is there for finalizers: {', '.join(tier.held_by)}"
        return _Verdict("Ready", False, DELETING, message[:4096])
    if tier.violations:
        return _Verdict("Ready", False, "InvalidSpec", _refusal(tier))
    if newer := [found for seen in observations if (found := _newer_generation(tier, seen))]:
        # Nothing progresses until somebody does something.
        return _Verdict("Ready", False, NEWER_GENERATION, "; ".join(message for _, message in newer))
    waiting = [region["name"] for region in regions if region["state"] != "Ready"]
    if not waiting:
        return _Verdict("Ready", True, "Enforced", "Every ready worker of every region enforces this generation")
    is_lost = any(region["state"] == "Unreachable" for region in regions)
    return _Verdict("Ready", False, "RegionUnreachable" if is_lost else "Progressing", f"Not yet enforced in {', '.join(waiting)}")


def _lane_ready(lanes: Mapping[str, LaneState]) -> _Verdict:
    waiting = {region: lane for region, lane in lanes.items() if lane.state != READY}
    if not waiting:
        return _Verdict("LaneReady", True, "Ready", "The dedicated cache lane of every region is ready")
    reason = FAILED if any(lane.state == FAILED for lane in waiting.values()) else PROGRESSING
    return _Verdict("LaneReady", False, reason, "; ".join(f"{region}: {lane.message}" for region, lane in waiting.items()))
