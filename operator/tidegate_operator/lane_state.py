"""What is known of dedicated cache lanes, without I/O; made by `lanes.py`, shown by `status.py` and `conditions.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate_operator.lane_objects import REGION, TIER, LaneOrder

READY, PROGRESSING, FAILED = "Ready", "Progressing", "Failed"


@dataclass(frozen=True, slots=True)
class LaneState:
    """How a tier's lane in one region is: Ready, Progressing or Failed, and what people should know."""

    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What a look at a tier's lanes gave: their states by region, and whether nothing is left to do."""

    lanes: Mapping[str, LaneState] = field(default_factory=dict)
    is_done: bool = True


@dataclass(frozen=True, slots=True)
class SeenLane:
    """The StatefulSet of a lane as the API server showed it.

    Args:
        owner: The uid of its tier.
        generation: Of its spec.
        uid: Its own; one that was made anew has another, and may have the same generation.
        version: Grows with every change of it; 0 where versions are no numbers.
    """

    name: str
    region: str
    tier: str
    owner: str
    generation: int
    is_ready: bool
    uid: str = ""
    version: int = 0

    @property
    def state(self) -> LaneState:
        """What its pod is doing."""
        if self.is_ready:
            return LaneState(READY, "Its pod is ready")
        return LaneState(PROGRESSING, f"The pod of StatefulSet {self.name} is not ready yet; requests are served without the lane")


def seen_lane(body: Mapping[str, Any]) -> SeenLane:
    """Read a StatefulSet that has the labels of a lane."""
    metadata, status = body["metadata"], body.get("status") or {}
    owners = (owner["uid"] for owner in metadata.get("ownerReferences", ()) if owner.get("controller"))
    labels, generation = metadata["labels"], metadata["generation"]
    # An updated pod: while a change rolls, the ready one may be the old one.
    is_ready = status.get("observedGeneration", 0) >= generation and 0 < status.get("readyReplicas", 0) <= status.get("updatedReplicas", 0)
    version = metadata.get("resourceVersion", "")
    return SeenLane(
        name=metadata["name"],
        region=labels.get(REGION, ""),
        tier=labels.get(TIER, ""),
        owner=next(owners, ""),
        generation=generation,
        is_ready=is_ready,
        uid=metadata["uid"],
        version=int(version) if version.isdecimal() else 0,
    )


def unseen_lane(order: LaneOrder) -> SeenLane:
    """What is known of a lane that is being made."""
    document = order.document
    return SeenLane(order.name, order.region, document.tier.name, document.uid, generation=0, is_ready=False)
