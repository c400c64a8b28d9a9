"""One of many makes an entry, over all workers of a region; the others wait for it, not for ever (CACHE-8). Called by `middleware.py`.

In a worker one request leads and the others follow its flight; among workers a lease in the lane chooses the one. An invalidation removes
the lease, so an answer that was begun before it is neither kept nor given to anybody who asked after it.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import structlog

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import LEASE_MILLISECONDS, Lane, Place

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

WAIT_SECONDS = 5.0
"""Longest wait for somebody else's answer: two leases and some. Then a request asks for itself."""
POLL_SECONDS = (0.005, 0.1)
"""First and longest pause between two looks at what another worker makes; it doubles."""
RENEWALS = 4
"""In the time of a lease: a few may fail and the next is still in time."""

Origin: TypeAlias = Callable[[], Awaitable[Entry | str]]
"""Asks the handler: an entry to keep, or the word why its answer is not kept. Its errors are the asker's alone."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a fetch came to.

    Args:
        entry: The answer; None: that of the own handler, which is not kept.
        is_stored: It is kept.
        is_collapsed: Somebody else made it.
        has_others: There were other variants of the path.
        detail: Why it is not kept.
    """

    entry: Entry | None = None
    is_stored: bool = False
    is_collapsed: bool = False
    has_others: bool = False
    detail: str = ""


class _Flight:
    """A fetch that others may follow.

    `is_alone` since the wait for a lease was given up: what comes may be older than an invalidation since. `is_void`: it came to nothing
    that says anything of the next.
    """

    def __init__(self) -> None:
        self.landed = asyncio.Event()
        self.made = Made()
        self.is_alone = False
        self.is_void = False


class SingleFlight:
    """The fetches of one worker."""

    def __init__(self) -> None:
        self._flights: dict[tuple[Lane, Place], _Flight] = {}

    def is_flying(self, lane: Lane, place: Place) -> bool:
        """Whether this worker is fetching that entry."""
        return (lane, place) in self._flights

    async def fetch(self, lane: Lane, place: Place, seen: bytes, origin: Origin) -> Made:
        """Another's answer, or that of `origin`; `seen` tells the entry that will not do."""
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end:
            flight = self._flights.get((lane, place))
            if flight is None:
                with self._leading(lane, place) as flight:
                    flight.made = await self._lead(lane, place, seen, origin, flight, end)
                    return flight.made
            is_late = flight.is_alone
            await flight.landed.wait()
            made = flight.made
            if made.entry and (made.is_stored or made.is_collapsed or (flight.is_alone and not is_late)):
                return Made(made.entry, is_collapsed=True)
            if not flight.is_void:
                break  # An error, or an answer that is nobody else's.
        return await _alone(origin)

    async def fetch_now(self, lane: Lane, place: Place, seen: bytes, origin: Origin) -> Made:
        """What `origin` says from now on, for whoever wants nobody else's; kept, unless somebody is making an entry."""
        return await self._fetch_leased(lane, place, seen, origin) or await _alone(origin)

    async def refresh(self, lane: Lane, place: Place, seen: bytes, origin: Origin) -> None:
        """Replace the entry, unless somebody is at it."""
        await self._fetch_leased(lane, place, seen, origin)

    async def _fetch_leased(self, lane: Lane, place: Place, seen: bytes, origin: Origin) -> Made | None:
        if self.is_flying(lane, place):
            return None
        with self._leading(lane, place) as flight:
            taken = await lane.take(place, owner := _new_owner(), seen)
            flight.is_void = not taken.is_ours
            if flight.is_void:
                return None
            flight.made = await self._make(lane, place, owner, origin, flight)
            return flight.made

    @contextmanager
    def _leading(self, lane: Lane, place: Place) -> Iterator[_Flight]:
        flight = self._flights[lane, place] = _Flight()
        try:
            yield flight
        finally:
            del self._flights[lane, place]
            flight.landed.set()

    async def _lead(self, lane: Lane, place: Place, seen: bytes, origin: Origin, flight: _Flight, end: float) -> Made:
        owner, (pause, longest) = _new_owner(), POLL_SECONDS
        while time.monotonic() < end:
            taken = await lane.take(place, owner, seen)
            if taken.is_ours:
                return replace(await self._make(lane, place, owner, origin, flight), has_others=taken.has_others)
            if taken.found and taken.found.entry:
                return Made(taken.found.entry, is_collapsed=True)
            # One that cannot be opened will not do either.
            seen = taken.found.seen if taken.found else seen
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        flight.is_alone = True
        return await _alone(origin)

    async def _make(self, lane: Lane, place: Place, owner: str, origin: Origin, flight: _Flight) -> Made:
        async with _held(lane, place, owner):
            answer = await origin()
        if isinstance(answer, str):
            with suppress(LaneUnavailableError):
                await lane.release(place, owner)
            return Made(detail=answer)
        try:
            is_stored = await lane.store(place, owner, answer)
        except LaneUnavailableError as ex:
            return Made(answer, detail=ex.detail)
        flight.is_void = not is_stored
        return Made(answer, is_stored, detail="" if is_stored else "invalidated")


@asynccontextmanager
async def _held(lane: Lane, place: Place, owner: str) -> AsyncIterator[None]:
    """Keeps a lease alive; ends it if there will be no entry."""
    is_over = asyncio.Event()
    renewal = asyncio.create_task(_renew(lane, place, owner, is_over))
    try:
        yield
    except BaseException:
        with suppress(LaneUnavailableError):
            await lane.release(place, owner)
        raise
    finally:
        # Not by cancellation: redis-py may lose one that meets a call in flight. A call ends by its own deadline.
        is_over.set()
        await renewal


async def _renew(lane: Lane, place: Place, owner: str, is_over: asyncio.Event) -> None:
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), LEASE_MILLISECONDS / 1000 / RENEWALS)
            return
        try:
            if not await lane.renew(place, owner):
                return  # Lost: the store will find the same, and keep nothing.
        except LaneUnavailableError as ex:
            log.debug("a lease could not be renewed", reason=str(ex))


async def _alone(origin: Origin) -> Made:
    answer = await origin()
    return Made(detail=answer) if isinstance(answer, str) else Made(answer)


def _new_owner() -> str:
    return secrets.token_hex(8)
