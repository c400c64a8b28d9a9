"""Watches one region: hears its workers, polls its revision, notices loss and return; run by the reconciler, one for each region."""

import asyncio
from collections.abc import Callable
from enum import Enum, auto

import structlog

from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.observation import RegionView
from tidegate_operator.publisher import Publisher
from tidegate_operator.refill import Refill
from tidegate_operator.work_queue import backoff_seconds

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

POLL_SECONDS = 0.5
"""A flushed Redis is noticed within this time; a report of a worker is noticed at once."""
SLOWEST_BACKOFF = 5
"""Failures after which the delay grows no more (4 s): a region that returns is refilled soon."""


class Change(Enum):
    """How much of the region's tiers a change concerns."""

    EVERY_TIER = auto()
    UNFINISHED_TIERS = auto()


class RegionWatch:
    """Calls `changed` whenever what a region holds or enforces may differ from what was last seen.

    Args:
        publisher: The region.
        refill: What fills it when it is empty.
        changed: Told synchronously; it queues work and returns.
    """

    def __init__(self, publisher: Publisher, refill: Refill, changed: Callable[[Change], None]) -> None:
        self.publisher = publisher
        self.refill = refill
        self.problem = ""
        self._changed = changed
        self._view: RegionView | None = None
        self._seen_of_workers: tuple[bool, bool] | None = None
        self._failures = 0

    async def run(self) -> None:
        """Watch until cancelled, connecting again with backoff."""
        while True:
            try:
                await self._watch()
            except RegionUnreachableError as ex:
                self._lose(ex)
            except Exception:
                # One region's trouble must not end the watch of it, nor anything of the others.
                log.exception("watching a region failed unexpectedly", region=self.publisher.region)
                self._lose(RegionUnreachableError(self.publisher.region, "unexpected error"))
            await asyncio.sleep(backoff_seconds(min(self._failures, SLOWEST_BACKOFF)))

    async def _watch(self) -> None:
        async with self.publisher.reports() as reports:
            while True:
                self._compare(await self.publisher.view())
                await reports.wait(POLL_SECONDS)

    def _compare(self, view: RegionView) -> None:
        before, self._view = self._view, view
        if before is None:
            self._return()
        if before is None or self._is_foreign(view) or self._has_other_workers(view):
            self._changed(Change.EVERY_TIER)
        elif view != before:
            self._changed(Change.UNFINISHED_TIERS)

    def _is_foreign(self, view: RegionView) -> bool:
        """Whether someone else changed the tiers, a flush included; noted, so that it is told once."""
        known, self.publisher.last_revision = self.publisher.last_revision, view.revision
        return known != view.revision

    def _has_other_workers(self, view: RegionView) -> bool:
        # Their numbers alone are brought up to date by the resync: a rolling restart would otherwise rewrite every status many times.
        before, self._seen_of_workers = self._seen_of_workers, (view.ready > 0, view.undecided > 0)
        return before != self._seen_of_workers

    def _return(self) -> None:
        if self.problem:
            log.info("region reachable again", region=self.publisher.region)
        self.problem = ""
        self._failures = 0

    def _lose(self, ex: RegionUnreachableError) -> None:
        if not self.problem:
            log.warning("region unreachable, its workers keep their last tiers", region=ex.region, cause=ex.cause)
        is_news = not self.problem
        self.problem = f"its Redis does not answer ({ex.cause})"
        self._failures += 1
        self._view = None
        if is_news:
            self._changed(Change.EVERY_TIER)
