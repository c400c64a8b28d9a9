"""Gives a region that has no revision or no tier all wanted tiers in one step; asked by `carry.py` for whichever tier finds it so."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from tidegate.contract.codec import TierDocument
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.publisher import Publisher
from tidegate_operator.work_queue import backoff_seconds

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

SLOWEST_BACKOFF = 5
"""Failures after which the delay grows no more (4 s): each try carries every tier, and each tier has a reason to try."""


class Refill:
    """Fills one region. Who asks soon after a failure meets the same.

    Args:
        publisher: The region.
        documents: Every tier that it must hold; None while they are not all known.
    """

    def __init__(self, publisher: Publisher, documents: Callable[[], Awaitable[Sequence[TierDocument] | None]]) -> None:
        self._publisher = publisher
        self._documents = documents
        self._filling = asyncio.Lock()
        self._failures = 0
        self._cause = ""
        self._not_before = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether somebody fills it now. A call would wait for that, with a place that another region may need."""
        return self._filling.locked()

    async def __call__(self, name: str) -> bool:
        """Whether the region, found empty when tier `name` was looked for, holds tiers now.

        It is left alone while the wanted tiers are not all known, or there are none.

        Raises:
            RegionUnreachableError: Its Redis failed or refused, now or a moment ago.
        """
        async with self._filling:
            if time.monotonic() < self._not_before:
                raise RegionUnreachableError(self._publisher.region, self._cause)
            try:
                is_filled = not (await self._publisher.read(name)).is_empty or await self._fill()
            except RegionUnreachableError as ex:
                self._failures, self._cause = self._failures + 1, ex.cause
                self._not_before = time.monotonic() + backoff_seconds(min(self._failures, SLOWEST_BACKOFF))
                raise
            self._failures = 0
            return is_filled

    async def _fill(self) -> bool:
        documents = await self._documents()
        if not documents:
            return False
        started = time.monotonic()
        outcome = await self._publisher.fill(documents)
        region, seconds = self._publisher.region, round(time.monotonic() - started, 3)
        log.info("empty region filled", tiers=len(documents), region=region, outcome=outcome, seconds=seconds)
        if outcome == "filled":
            for document in documents:
                log.info("tier written", tier=document.tier.name, region=region, generation=document.generation, outcome=outcome)
        return True
