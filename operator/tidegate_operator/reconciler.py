"""Brings every region to the wanted tiers and has reported what they enforce; driven by events, region watches and a slow resync."""

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from tidegate.contract.codec import TierDocument
from tidegate_operator.carry import publish_into, retire_from
from tidegate_operator.desired import DesiredTier
from tidegate_operator.errors import RegionUnreachableError, SourceUnavailableError
from tidegate_operator.observation import Observation
from tidegate_operator.ports import LaneUpkeep, StatusReport, TierListing
from tidegate_operator.publisher import Publisher
from tidegate_operator.refill import Refill
from tidegate_operator.regions import Change, RegionWatch
from tidegate_operator.reporting import Reporting
from tidegate_operator.status import is_enforced, is_enforced_everywhere
from tidegate_operator.wanted import Departure, WantedTiers
from tidegate_operator.work_queue import WorkQueue

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

RESYNC_SECONDS = 30.0
"""Drift in Redis that changes no revision, and tiers whose object is gone, last this long at most."""
FIRST_LISTING_SECONDS = 1.0
"""Delay before another try while no listing has succeeded yet."""

PASSING_SECONDS = 3.0
"""Workers that take up a revision take no longer; those that do are news for the status of every tier."""


class Reconciler:
    """One for each operator. `run` serves until cancelled; the other methods may be called while it runs.

    Args:
        publishers: One for each region.
        source: Where the wanted tiers come from.
        reports: Where a changed status goes.
        lanes: Who makes dedicated cache lanes; None: somebody else, or nobody.
    """

    def __init__(
        self, publishers: Sequence[Publisher], source: TierListing, reports: StatusReport, lanes: LaneUpkeep | None = None
    ) -> None:
        self._source = source
        self._watches = [RegionWatch(publisher, Refill(publisher, self._all_documents), self._region_changed) for publisher in publishers]
        self._wanted = WantedTiers()
        self._queue = WorkQueue(self._reconcile)
        self._reporting = Reporting(self._wanted, reports, lanes)
        self._finished: set[str] = set()
        self._passing_since: dict[str, float] = {}
        self._listing = asyncio.Lock()
        self._has_listed = False

    async def run(self) -> None:
        """Serve until cancelled; an error that nobody expected is logged, and what it stopped is tried again."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._reporting.run())
            for watch in self._watches:
                group.create_task(watch.run())
            group.create_task(self._resync_slowly())

    def put(self, tier: DesiredTier) -> None:
        """An object was seen. One that is being deleted has its tier retired, and says so."""
        if self._wanted.put(tier):
            self._queue.add(tier.name, first=True)

    def remove(self, name: str, uid: str) -> None:
        """An object is gone: retire its tier; from a region that does not answer, when it returns."""
        self._wanted.remove(name, uid)
        self._queue.add(name, first=True)

    def look_at(self, name: str) -> None:
        """Something of a tier's changed that its object does not show."""
        self._queue.add(name, first=True)

    async def resync(self) -> None:
        """List the wanted tiers and look at all of them in every region; tiers that nobody wants depart.

        Raises:
            SourceUnavailableError: The wanted tiers cannot be listed; nothing departs.
        """
        async with self._listing:
            started = time.monotonic()
            listing = await self._source.list()
            self._wanted.merge(listing.tiers, started=started, is_complete=listing.is_complete)
            if listing.is_complete:
                await asyncio.gather(*(self._find_orphans(watch) for watch in self._watches))
            self._has_listed = True
        self._look_at_everything()

    async def _find_orphans(self, watch: RegionWatch) -> None:
        try:
            stored = await watch.publisher.uids()
        except RegionUnreachableError:
            return  # the watch says so; the next resync looks again
        for name, uid in stored.items():
            if name not in self._wanted.tiers:
                self._wanted.remove(name, uid)

    async def _resync_slowly(self) -> None:
        while True:
            try:
                await self.resync()
            except SourceUnavailableError as ex:
                log.warning("the wanted tiers cannot be listed, the known ones stay", cause=str(ex))
            except Exception:
                # As with a key of the queue and with a region: without the next look nothing would be reconciled but what events bring.
                log.exception("looking at all tiers failed unexpectedly")
            seconds = RESYNC_SECONDS if self._has_listed else FIRST_LISTING_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.8, 1))  # noqa: S311 - jitter

    def _region_changed(self, change: Change) -> None:
        if change is Change.EVERY_TIER:
            self._look_at_everything()
            return
        for name in self._wanted.names():
            if name not in self._finished:
                self._queue.add(name)

    def _look_at_everything(self) -> None:
        for name in self._wanted.names():
            self._queue.add(name)

    async def _reconcile(self, name: str) -> bool:
        if name in self._wanted.departures:
            return await self._retire(name, self._wanted.departures[name])
        tier = self._wanted.tiers.get(name)
        return tier is None or await self._publish(tier)

    async def _publish(self, tier: DesiredTier) -> bool:
        # From now on, so that no report of a worker is overlooked, be it to what is written here or to what was read first.
        self._finished.discard(tier.name)
        if tier.document is None:
            tier = await self._recover(tier)
        observations = await asyncio.gather(*(publish_into(watch, tier.name, tier.document) for watch in self._watches))
        if any(seen.is_being_filled for seen in observations):
            return False
        return self._conclude(tier, observations) and self._is_tried(observations)

    async def _recover(self, tier: DesiredTier) -> DesiredTier:
        # The newest spec is refused, and this operator saw none that was not: the regions remember the last good one.
        seen = await asyncio.gather(*(publish_into(watch, tier.name, None) for watch in self._watches))
        known = [observed.document for observed in seen if observed.document and observed.document.uid == tier.uid]
        if not known:
            return tier
        return self._wanted.adopt(tier, max(known, key=lambda document: document.generation))

    async def _all_documents(self) -> Sequence[TierDocument] | None:
        # Before a listing there may be tiers of which no event has come, and a region that is filled without them drops them.
        if not self._has_listed:
            return None
        await asyncio.gather(*(self._recover(tier) for tier in self._wanted.tiers.values() if tier.document is None))
        return [tier.document for tier in self._wanted.tiers.values() if tier.document]

    async def _retire(self, name: str, departure: Departure) -> bool:
        observations = await asyncio.gather(*(retire_from(watch, name, departure.uids) for watch in self._watches))
        if any(seen.is_being_filled for seen in observations):
            return False
        if departure.held:
            self._reporting.put(departure.held, observations)
        if holding := [seen.region for seen in observations if seen.problem]:
            if not departure.is_reported:
                departure.is_reported = True
                log.warning("tier not retired yet, it goes when the region can be written to", tier=name, regions=holding)
            return self._is_tried(observations)
        self._finished.discard(name)
        self._passing_since.pop(name, None)
        self._wanted.end(name, departure)
        return True

    def _is_tried(self, observations: Sequence[Observation]) -> bool:
        # A region that its watch knows as lost needs no retry: its return has everything looked at.
        return all(not seen.problem or watch.problem for seen, watch in zip(observations, self._watches, strict=True))

    def _conclude(self, tier: DesiredTier, observations: Sequence[Observation]) -> bool:
        (self._finished.add if is_enforced_everywhere(tier, observations) else self._finished.discard)(tier.name)
        if self._is_passing(tier, observations):
            return False
        self._reporting.put(tier, observations)
        return True

    def _is_passing(self, tier: DesiredTier, observations: Sequence[Observation]) -> bool:
        # Workers enforce a region's tiers as one revision, so an edit of one tier makes all others look unfinished for a moment.
        was_enforced = tier.last_status.get("activeGeneration") == tier.generation and is_enforced(tier.last_status)
        is_held = all(seen.view and seen.view.ready and seen.document == tier.document for seen in observations)
        if is_enforced_everywhere(tier, observations) or not was_enforced or not is_held:
            self._passing_since.pop(tier.name, None)
            return False
        return time.monotonic() - self._passing_since.setdefault(tier.name, time.monotonic()) < PASSING_SECONDS
