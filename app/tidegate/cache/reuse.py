"""`Reuse`: gives a request what the lane has, or has the handler asked, once for many; called by `middleware.py`, which speaks Falcon."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.freshness import Verdict, Wish, is_due_early, judge, may_stand_in, within
from tidegate.cache.lane import Found, Lane, Place
from tidegate.cache.lease import LONGEST_SECONDS
from tidegate.cache.single_flight import Made, Origin, SingleFlight
from tidegate.cache.status import CacheStatus
from tidegate.contract.tier import Cache

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

MOST_REFRESHES = 16
"""In the background of a worker: they have no seat, and must not crowd out requests that have one."""
CLOSE_SECONDS = 1.0
FAILED = "failed"
"""What an `Origin` says of an answer that is a 5xx."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to a cached route.

    Args:
        lane: Of its tier.
        place: Of its answer in there.
        cache: What its tier allows now.
        wish: What the client asks of caches.
        origin: Asks the handler for this request.
        background: Asks the handler for whoever comes later.
        is_failure: Whether an error of the handler is a 5xx.
        status: Where it is noted what was done.
    """

    lane: Lane
    place: Place
    cache: Cache
    wish: Wish
    origin: Origin
    background: Origin
    is_failure: Callable[[Exception], bool]
    status: CacheStatus


class Reuse:
    """What a worker does with its lanes."""

    def __init__(self) -> None:
        self._flights = SingleFlight()
        self._refreshes = set[asyncio.Task[None]]()

    async def answer(self, asked: Asked) -> Entry | None:
        """The entry to answer with; None: the answer of the handler stands, or nothing was done for a client that wants none but kept ones.

        Raises:
            LaneUnavailableError: The lane does not answer; the handler was not asked.
            Exception: Of the handler.
        """
        found, now = await asked.lane.read(asked.place), time.time()
        if found.entry:
            found = replace(found, entry=within(found.entry, asked.cache))
        verdict = judge(found.entry, asked.wish, now) if found.entry else None
        if found.entry and verdict in (Verdict.FRESH, Verdict.STALE):
            asked.status.forwarded, asked.status.ttl = "", found.entry.whole_ttl(now)
            if verdict is Verdict.STALE or is_due_early(found.entry, now):
                self._refresh(asked, found.seen)
            return found.entry
        asked.status.forwarded = "uri-miss" if verdict is None else "request" if verdict is Verdict.UNWANTED else "stale"
        if asked.wish.only_if_cached:
            return None
        try:
            made = await self._fetch(asked, found)
        except LaneUnavailableError:
            raise  # No failure of the handler, which was not asked.
        except Exception as error:
            if not (_stand_in(asked, found) and asked.is_failure(error)):
                raise
            made = Made(detail=FAILED)
        return self._settle(asked, made, found)

    async def close(self) -> None:
        """Give up what is being refreshed, which nobody waits for: a handler that hangs must not keep a worker from its end."""
        for task in self._refreshes:
            task.cancel()
        if self._refreshes:
            # Not for ever: redis-py may lose a cancellation that meets a call in flight.
            await asyncio.wait(self._refreshes, timeout=CLOSE_SECONDS)

    async def _fetch(self, asked: Asked, found: Found) -> Made:
        # Who wants a young answer must not get one that was begun before the request came.
        fetch = self._flights.fetch if asked.wish.is_plain else self._flights.fetch_now
        return await fetch(asked.lane, asked.place, found.seen, asked.origin)

    @staticmethod
    def _settle(asked: Asked, made: Made, found: Found) -> Entry | None:
        status = asked.status
        if made.detail == FAILED and (entry := _stand_in(asked, found)):
            status.ttl, status.detail = entry.whole_ttl(time.time()), "stale-if-error"
            return entry
        if made.has_others and status.forwarded == "uri-miss":
            status.forwarded = "vary-miss"
        status.is_stored, status.is_collapsed, status.detail = made.is_stored, made.is_collapsed, made.detail
        return made.entry if made.is_collapsed else None

    def _refresh(self, asked: Asked, seen: bytes) -> None:
        if len(self._refreshes) >= MOST_REFRESHES or self._flights.is_flying(asked.lane, asked.place):
            return
        task = asyncio.create_task(self._refresh_quietly(asked, seen))
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)

    async def _refresh_quietly(self, asked: Asked, seen: bytes) -> None:
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._flights.refresh(asked.lane, asked.place, seen, asked.background)
        except Exception as ex:  # noqa: BLE001 - nobody waits for it; whoever comes after the entry's time gets the error
            log.warning("a kept answer could not be refreshed", lane=asked.lane.kind, reason=type(ex).__name__)


def _stand_in(asked: Asked, found: Found) -> Entry | None:
    return found.entry if found.entry and may_stand_in(found.entry, asked.wish, time.time()) else None
