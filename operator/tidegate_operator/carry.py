"""Carries one tier into, or out of, one watched region: read, plan, act; called by the reconciler."""

from dataclasses import replace

import structlog

from tidegate.contract.codec import TierDocument
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.observation import Observation
from tidegate_operator.plan import Publish, Retire, plan
from tidegate_operator.publisher import Publisher
from tidegate_operator.regions import RegionWatch

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def publish_into(watch: RegionWatch, name: str, document: TierDocument | None) -> Observation:
    """Have the region hold `document`, or only look when it is None; a region that is just being filled is to be looked at again."""
    publisher = watch.publisher
    if watch.problem:
        return Observation(publisher.region, problem=watch.problem)
    seen = None
    try:
        seen = await publisher.read(name)
        if document and seen.is_empty:
            if watch.refill.is_under_way:
                return replace(seen, is_being_filled=True)
            seen = await _refilled(watch, seen, name)
        action = plan(document, seen.stored) if document and not seen.is_empty else None
        if isinstance(action, Publish):
            await _publish(publisher, action.document)
            seen = await publisher.read(name)
    except RegionUnreachableError as ex:
        # It was read a moment ago: it refuses to be written to, which is another trouble than being away.
        return replace(seen or Observation(publisher.region), problem=f"its Redis failed ({ex.cause})")
    return seen


async def retire_from(watch: RegionWatch, name: str, uid: str) -> bool:
    """Have the region hold no tier `name` of this uid; False: it was not reached, or is being filled, maybe with that tier."""
    publisher = watch.publisher
    if watch.problem:
        return False
    try:
        seen = await publisher.read(name)
        if seen.is_empty and watch.refill.is_under_way:
            return False
        stored = (await _refilled(watch, seen, name)).stored
        action = plan(None, stored if stored and stored.uid == uid else None)
        if isinstance(action, Retire):
            outcome = await publisher.retire(action.name, action.uid)
            log.info("tier retired", tier=name, region=publisher.region, outcome=outcome)
    except RegionUnreachableError:
        return False
    return True


async def _refilled(watch: RegionWatch, seen: Observation, name: str) -> Observation:
    # Never one tier after the other: with the first, workers would drop all that are not there yet.
    if seen.is_empty and await watch.refill():
        return await watch.publisher.read(name)
    return seen


async def _publish(publisher: Publisher, document: TierDocument) -> None:
    outcome = await publisher.publish(document)
    level = log.warning if outcome == "refused" else log.info
    level("tier written", tier=document.tier.name, region=publisher.region, generation=document.generation, outcome=outcome)
