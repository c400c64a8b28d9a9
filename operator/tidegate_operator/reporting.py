"""Keeps a tier's lanes and writes its status, by what was seen last of it in the regions; fed and run by the reconciler.

Both wait for the API server, which may not answer for minutes, and no region waits for them: they have a queue of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from tidegate_operator.desired import DesiredTier
from tidegate_operator.errors import ReportError
from tidegate_operator.lane_state import Upkeep
from tidegate_operator.observation import Observation
from tidegate_operator.ports import LaneUpkeep, StatusReport
from tidegate_operator.status import build_status
from tidegate_operator.wanted import WantedTiers
from tidegate_operator.work_queue import WorkQueue

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Look:
    tier: DesiredTier
    observations: Sequence[Observation]


class Reporting:
    """Works on the newest look at each tier until its lanes are as it wants them and its object carries the status.

    Args:
        wanted: Knows the status that an object carries now, and is told of the one that was written.
        reports: Where a changed status goes.
        lanes: Who makes dedicated cache lanes; None: somebody else, or nobody.
    """

    def __init__(self, wanted: WantedTiers, reports: StatusReport, lanes: LaneUpkeep | None) -> None:
        self._wanted = wanted
        self._reports = reports
        self._lanes = lanes
        self._looks: dict[str, _Look] = {}
        self._queue = WorkQueue(self._work_on)

    async def run(self) -> None:
        """Serve until cancelled."""
        await self._queue.run()

    def put(self, tier: DesiredTier, observations: Sequence[Observation]) -> None:
        """What the regions showed of `tier`; an older look that still waits is forgotten, and what nothing was said of yet goes first."""
        self._looks[tier.name] = _Look(tier, observations)
        is_news = tier.last_status.get("observedGeneration") != tier.generation
        self._queue.add(tier.name, first=is_news)

    async def _work_on(self, name: str) -> bool:
        look = self._looks.get(name)
        is_done = look is None or await self._report(look)
        if is_done and self._looks.get(name) is look:
            self._looks.pop(name, None)
        return is_done

    async def _report(self, look: _Look) -> bool:
        upkeep = await self._keep_lanes(look.tier)
        tier = self._current(look.tier)
        return tier is None or (await self._write(tier, look.observations, upkeep) and upkeep.is_done)

    async def _keep_lanes(self, tier: DesiredTier) -> Upkeep:
        if self._lanes is None or tier.held_by is not None or self._current(tier) is None:
            return Upkeep()
        return await self._lanes.keep(tier)

    def _current(self, tier: DesiredTier) -> DesiredTier | None:
        """The tier with the status that its object carries now; None when it is gone, or another look at it is to come."""
        if tier.held_by is not None:
            return tier
        known = self._wanted.tiers.get(tier.name)
        return known if known and (known.uid, known.generation) == (tier.uid, tier.generation) else None

    async def _write(self, tier: DesiredTier, observations: Sequence[Observation], upkeep: Upkeep) -> bool:
        status = build_status(tier, observations, upkeep.lanes, now=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        if status == tier.status:
            return True
        try:
            await self._reports.report(tier, status)
        except ReportError as ex:
            log.warning("status not written, trying again", tier=tier.name, cause=str(ex))
            return False
        self._wanted.note_status(tier, status)
        return True
