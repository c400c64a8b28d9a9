"""Carries one tier into, or out of, one watched region: read, plan, act; called by the reconciler."""

from collections.abc import Callable, Set
from dataclasses import replace

import structlog

from tidegate.contract.codec import TierDocument
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.observation import Observation, Stored
from tidegate_operator.plan import Nothing, Publish, Retire, plan
from tidegate_operator.publisher import Publisher
from tidegate_operator.regions import RegionWatch

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def publish_into(watch: RegionWatch, name: str, document: TierDocument | None) -> Observation:
    """Have the region hold `document`, or only look when it is None; a region that is just being filled is to be looked at again."""
    return await _carry(watch, name, (lambda stored: plan(document, stored)) if document else None)


async def retire_from(watch: RegionWatch, name: str, uids: Set[str]) -> Observation:
    """Have the region hold no tier `name` of these uids; one that is just being filled, maybe with that tier, is to be looked at again."""
    return await _carry(watch, name, lambda stored: plan(None, stored if stored and stored.uid in uids else None))


async def _carry(watch: RegionWatch, name: str, step: Callable[[Stored | None], Publish | Retire | Nothing] | None) -> Observation:
    publisher = watch.publisher
    if watch.problem:
        return Observation(publisher.region, problem=watch.problem)
    seen = None
    try:
        seen = await publisher.read(name)
        if step and seen.is_empty:
            if watch.refill.is_under_way:
                return replace(seen, is_being_filled=True)
            seen = await _refilled(watch, seen, name)
        if step and not seen.is_empty and await _act(publisher, step(seen.stored)):
            seen = await publisher.read(name)
    except RegionUnreachableError as ex:
        # It was read a moment ago: it refuses to be written to, which is another trouble than being away.
        return replace(seen or Observation(publisher.region), problem=f"its Redis failed ({ex.cause})")
    return seen


async def _refilled(watch: RegionWatch, seen: Observation, name: str) -> Observation:
    # Never one tier after the other: with the first, workers would drop all that are not there yet.
    return await watch.publisher.read(name) if await watch.refill(name) else seen


async def _act(publisher: Publisher, action: Publish | Retire | Nothing) -> bool:
    match action:
        case Publish(document):
            await _publish(publisher, document)
        case Retire(name, uid):
            outcome = await publisher.retire(name, uid)
            log.info("tier retired", tier=name, region=publisher.region, outcome=outcome)
    return action != Nothing()


async def _publish(publisher: Publisher, document: TierDocument) -> None:
    outcome = await publisher.publish(document)
    level = log.warning if outcome == "refused" else log.info
    level("tier written", tier=document.tier.name, region=publisher.region, generation=document.generation, outcome=outcome)
