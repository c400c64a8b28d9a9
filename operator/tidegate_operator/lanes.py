"""`Lanes`: makes, changes and removes the dedicated cache lanes of tiers in Kubernetes; called by the reconciler, fed by `handlers.py`.

What is wanted is applied as a whole (server-side apply), so that a lane that somebody changed is as it should be again. Deleting a tier
needs nothing of this: Kubernetes collects what it owns.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from tidegate.contract.codec import TierDocument
from tidegate.contract.tier import Lane
from tidegate_operator.desired import DesiredTier
from tidegate_operator.kubernetes_api import ApiError, KubernetesApi
from tidegate_operator.lane_objects import LANE, LaneOrder, Manifest, lane_address
from tidegate_operator.lane_site import LaneSite
from tidegate_operator.lane_state import FAILED, LaneState, SeenLane, Upkeep, seen_lane, unseen_lane

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

MANAGER = "tidegate-operator"
DRIFT_SECONDS = 300.0
"""What somebody changed in a lane's Service, Secret or NetworkPolicy, which are not watched, lasts this long at most."""
RESOURCES = {
    "Service": ("v1", "services"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Secret": ("v1", "secrets"),
    # Removed last: by it the operator knows that there is a lane.
    "StatefulSet": ("apps/v1", "statefulsets"),
}


@dataclass(frozen=True, slots=True)
class _Applied:
    digest: str
    uid: str
    generation: int
    until: float


class Lanes:
    """The dedicated lanes of one release in one namespace.

    Args:
        kubernetes: The API of that namespace.
        site: Where lanes are made and of what.
        secret: What passwords follow from.
    """

    def __init__(self, kubernetes: KubernetesApi, site: LaneSite, secret: bytes) -> None:
        self.site = site
        self._kubernetes = kubernetes
        self._secret = secret
        self._seen: dict[str, SeenLane] = {}
        self._applied: dict[str, _Applied] = {}

    def address(self, document: TierDocument) -> str:
        """Where workers find the lane of a tier; it may not be there yet."""
        return lane_address(self.site, document)

    async def recall(self) -> None:
        """See the lanes that are there, before any is kept: one that is taken for new is not changed in the order of a change.

        Raises:
            ApiError: The API server failed or refused.
        """
        selector = ",".join([*(f"{name}={value}" for name, value in self.site.labels.items()), LANE])
        found = await self._kubernetes.list(*RESOURCES["StatefulSet"], {"labelSelector": selector})
        for body in found["items"]:
            self.see(body)

    def see(self, body: Mapping[str, Any], *, is_gone: bool = False) -> str:
        """Take what the API server shows of a lane's StatefulSet. Returns the name of its tier."""
        seen = seen_lane(body)
        known = self._seen.get(seen.name)
        if known and known.version > seen.version:
            return seen.tier  # an answer to us may be older than the last event, and the end of a lane than the one that was made since
        if is_gone:
            self._seen.pop(seen.name, None)
            self._applied.pop(seen.name, None)
        else:
            self._seen[seen.name] = seen
        return seen.tier

    async def keep(self, tier: DesiredTier) -> Upkeep:
        """Have the lanes of a tier be as its document says, in every region of this release, and no others."""
        document = tier.document
        if document is None:
            return Upkeep()
        regions = self.site.regions if document.tier.cache.lane is Lane.DEDICATED else ()
        orders = [LaneOrder(document, region, self.site, self._secret) for region in regions]
        names = {order.name for order in orders}
        unwanted = [seen for seen in self._seen.values() if seen.owner == tier.uid and seen.name not in names]
        are_gone = await asyncio.gather(*(self._remove(seen) for seen in unwanted))
        states = await asyncio.gather(*(self._apply(order) for order in orders))
        lanes = {order.region: state for order, state in zip(orders, states, strict=True)}
        return Upkeep(lanes, all(are_gone) and all(state.state != FAILED for state in states))

    async def _apply(self, order: LaneOrder) -> LaneState:
        *others, stateful_set = objects = order.objects()
        digest = hashlib.sha256(json.dumps(objects).encode()).hexdigest()
        if self._is_as_applied(order.name, digest):
            return self._seen[order.name].state
        # Known from now on, so that what was made of it is removed, should it fail half-way and not be wanted any more.
        known = self._seen.setdefault(order.name, unseen_lane(order))
        is_there = known.generation > 0
        try:
            # A new lane begins with its StatefulSet, by which another operator knows of it, should this one end half-way: its pod waits for
            # the Secret, which comes last then.
            answers = [await self._put(order.name, manifest) for manifest in (objects if is_there else (stateful_set, *others))]
        except ApiError as ex:
            log.warning("cache lane not made, trying again", tier=order.document.tier.name, region=order.region, cause=str(ex))
            return LaneState(FAILED, f"It cannot be made: {ex}"[:1024])
        latest = self._seen.get(order.name)
        if latest is None:
            # Somebody deleted it meanwhile, and that event has the tier looked at again: nothing of this is to be taken for applied.
            return unseen_lane(order).state
        if latest is known:
            # What was asked after the last event is newer, whatever the versions say: they go back with the API server's data.
            del self._seen[order.name]
        self._note(order, digest, answers[-1 if is_there else 0])
        return self._seen[order.name].state

    async def _put(self, name: str, manifest: Manifest) -> Manifest:
        return await self._kubernetes.apply(*_place(manifest["kind"], name), manifest, manager=MANAGER)

    def _is_as_applied(self, name: str, digest: str) -> bool:
        applied, seen = self._applied.get(name), self._seen.get(name)
        if applied is None or seen is None:
            return False
        is_same = (applied.digest, applied.uid, applied.generation) == (digest, seen.uid, seen.generation)
        return is_same and time.monotonic() < applied.until

    def _note(self, order: LaneOrder, digest: str, stateful_set: Manifest) -> None:
        before = self._applied.get(order.name)
        if before is None or before.digest != digest:
            log.info("cache lane applied", tier=order.document.tier.name, region=order.region, name=order.name)
        self.see(stateful_set)
        metadata = stateful_set["metadata"]
        until = time.monotonic() + DRIFT_SECONDS * random.uniform(0.8, 1)  # noqa: S311 - jitter
        self._applied[order.name] = _Applied(digest, metadata["uid"], metadata["generation"], until)

    async def _remove(self, seen: SeenLane) -> bool:
        try:
            for kind in RESOURCES:
                await self._kubernetes.delete(*_place(kind, seen.name))
        except ApiError as ex:
            log.warning("cache lane not removed, trying again", tier=seen.tier, region=seen.region, cause=str(ex))
            return False
        self._applied.pop(seen.name, None)
        self._seen.pop(seen.name, None)
        log.info("cache lane removed", tier=seen.tier, region=seen.region, name=seen.name)
        return True


def _place(kind: str, name: str) -> tuple[str, str]:
    version, resource = RESOURCES[kind]
    return version, f"{resource}/{name}"
