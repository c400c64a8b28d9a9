"""`TierSource`: keeps a worker's tiers those of its region; run by `application.py`, asked by the identity step."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from tidegate.connections.connect import RegionalRedis
from tidegate.contract.codec import TierDocument
from tidegate.contract.tier import Tier
from tidegate.tiers.errors import TiersUnavailableError
from tidegate.tiers.last_good import LastGood
from tidegate.tiers.regional import Published, RegionalTiers, RegionUnreachableError
from tidegate.tiers.roster import Roster
from tidegate.tiers.snapshot import Documents, TierSnapshot

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

HEARTBEAT_SECONDS = 1.0
"""Also how stale the tiers can be while messages are lost: each heartbeat brings the region's revision back."""
CONNECTED_SECONDS = 3.0
START_SECONDS = 2.0
"""How long a start waits for Redis before it goes on with what the disk holds."""
RETRY_SECONDS = (0.05, 1.0)
"""First and longest pause between attempts; it doubles, with jitter, so that workers do not come back all at once."""
LOGGED_NAMES = 100
LOGGED_CHANGES = 10
"""Names in the line of one swap: the first swap changes every tier, and there may be thousands."""
CANCELLATION_SECONDS = 0.1
"""After this long without effect a cancellation is repeated."""


class TierSource:
    """The tiers in force, swapped whole within a moment of a change; the last ones stay while Redis is away, empty or wrong.

    Args:
        redis: Client of the region's Redis, with timeouts and without retries; stays open at `stop`.
        worker_id: Unique name of this worker among those of the region.
        default_tier: Tier of whoever names an unknown one.
        last_good: File that keeps the tiers for a start without Redis; None: they are not kept.
        decides: Whether Redis decides limits for this worker; told to the operator with each heartbeat.
    """

    def __init__(
        self, redis: RegionalRedis, *, worker_id: str, default_tier: str, last_good: Path | None, decides: Callable[[], bool] = lambda: True
    ) -> None:
        self._region = RegionalTiers(redis, worker_id=worker_id)
        self._default_tier = default_tier
        self._last_good = LastGood(last_good)
        self._decides = decides
        self._documents = Documents()
        self._snapshot = self._documents.snapshot
        self._loaded_revision = 0
        self._roster = Roster()
        self._heard_at = float("-inf")
        self._failures = 0
        self._unknown: set[str] = set()
        self.unknown_tiers = 0
        """Requests that named a tier which is not there."""
        self._attempted = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> TierSnapshot:
        """The tiers in force; take it once and use it for a whole decision."""
        return self._snapshot

    @property
    def workers(self) -> int:
        """How many workers share the region's limits, this one included; 0 if the region never answered."""
        return self._roster.workers

    @property
    def connected(self) -> bool:
        """Whether Redis has answered a heartbeat in the last `CONNECTED_SECONDS`."""
        return time.monotonic() - self._heard_at < CONNECTED_SECONDS

    def tier(self, name: str) -> Tier:
        """The tier called `name`, or the default tier when there is none.

        Raises:
            TiersUnavailableError: The default tier is not known either.
        """
        tiers = self._snapshot.tiers
        tier = tiers.get(name) or tiers.get(self._default_tier)
        if tier is None:
            raise TiersUnavailableError(f"neither tier {name!r} nor the default tier {self._default_tier!r} is known")
        if tier.name != name:
            self._note_unknown(name)
        return tier

    def document(self, name: str) -> TierDocument | None:
        """The published document of tier `name`; the same object for as long as it stays the same."""
        return self._documents.by_name.get(name)

    async def start(self) -> None:
        """Take the tiers from Redis, or from the disk if Redis is away, and follow changes until `stop`."""
        self._recall()
        self._following = asyncio.create_task(self._follow(), name="tiers")
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._attempted.wait()
        except TimeoutError:
            log.warning("tiers not loaded yet", seconds=START_SECONDS, revision=self._snapshot.revision)

    async def stop(self) -> None:
        """Stop following and leave the region's roster."""
        if self._following is None:
            return
        # More than once, if need be: redis-py can lose a cancellation that meets a call in flight.
        while not self._following.done():
            self._following.cancel()
            await asyncio.wait([self._following], timeout=CANCELLATION_SECONDS)
        self._following = None
        try:
            await self._region.withdraw()
        except RegionUnreachableError as ex:
            log.info("heartbeat not withdrawn, it will lapse", reason=str(ex))

    async def _follow(self) -> None:
        while True:
            try:
                await self._listen()
            except RegionUnreachableError as ex:
                self._attempted.set()
                await self._pause(ex)
            except Exception:
                log.exception("following the tiers failed unexpectedly")
                await self._pause(RegionUnreachableError("unexpected error"))

    async def _listen(self) -> None:
        # Subscribed first and loaded second: a change in between is a message that waits.
        try:
            async with self._region.channel() as channel:
                await self._region.subscribe(channel)
                while True:
                    await self._synchronise()
                    await self._last_good.keep(self._documents)
                    await self._region.wait(channel, HEARTBEAT_SECONDS)
        finally:
            # Redis may be lost right after they were read, and the disk may take them by now.
            await self._last_good.keep(self._documents)

    async def _synchronise(self) -> None:
        # A region without a revision has lost its data: the operator fills it again, and until then the last tiers stay.
        while await self._report() not in (None, self._loaded_revision):
            published = await self._region.read()
            if published is not None:
                self._swap(published)
        self._attempted.set()

    async def _report(self) -> int | None:
        region = await self._region.report(self._snapshot.revision, ready=bool(self._snapshot.tiers), deciding=self._decides())
        if self._failures:
            log.info("region reached again", revision=region.revision)
        self._failures = 0
        self._heard_at = time.monotonic()
        self._roster.hear(region.workers, self._heard_at)
        return region.revision

    def _swap(self, published: Published) -> None:
        before = self._documents
        self._documents = before.follow(published.revision, published.texts)
        self._snapshot = self._documents.snapshot
        self._loaded_revision = published.revision
        self._unknown.clear()
        changed = self._documents.changed_since(before)
        log.info(
            "tiers swapped",
            revision=published.revision,
            enforced=self._snapshot.revision,
            tiers=len(self._snapshot.tiers),
            changed=len(changed),
            names=changed[:LOGGED_CHANGES],
        )

    def _recall(self) -> None:
        self._documents = self._last_good.recall()
        self._snapshot = self._documents.snapshot
        self._loaded_revision = self._snapshot.revision

    async def _pause(self, reason: RegionUnreachableError) -> None:
        if not self._failures:
            log.warning("region not reached, the last tiers stay", reason=str(reason), revision=self._snapshot.revision)
        self._failures += 1
        self._roster.interrupt()
        first, longest = RETRY_SECONDS
        seconds = min(longest, first * 2 ** min(self._failures, 10))
        await asyncio.sleep(seconds * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret

    def _note_unknown(self, name: str) -> None:
        self.unknown_tiers += 1
        if name not in self._unknown and len(self._unknown) < LOGGED_NAMES:
            self._unknown.add(name)
            log.warning("unknown tier, the default one is used", tier=name, default=self._default_tier)
