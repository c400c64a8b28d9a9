"""One of many makes an entry, over all workers of a region; the others wait for it, not for ever (CACHE-8). Called by `middleware.py`.

In a worker one request leads and the others follow its flight; among workers a lease in the lane chooses the one. An invalidation removes
the lease, so an answer that was begun before it is neither kept nor given to anybody who asked after it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import Lane, Place
from tidegate.cache.lease import held, new_owner

WAIT_SECONDS = 5.0
"""Longest wait for somebody else's answer: two leases and some. Then a request asks for itself."""
POLL_SECONDS = (0.005, 0.1)
"""First and longest pause between two looks at what another worker makes; it doubles."""

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

    `asked_at` is when the question was sent whose answer this is: to the lane, or to the handler once the wait for a lease was given up
    (`is_alone`). Whoever came later may know of an invalidation that the answer does not. `is_void`: it came to nothing that says anything
    of the next.
    """

    def __init__(self) -> None:
        self.landed = asyncio.Event()
        self.made = Made()
        self.asked_at = 0.0
        self.is_alone = False
        self.is_void = False

    def asks(self) -> None:
        """Note that a question is sent, whose answer may be that of the flight."""
        self.asked_at = time.monotonic()

    def conclude(self, made: Made) -> None:
        """Note what it came to, unless somebody has stood in."""
        if not self.landed.is_set():
            self.made = made

    def end_as(self, other: "_Flight") -> None:
        """End, as one that hangs, with what `other` came to, which was begun later."""
        if not self.landed.is_set():
            self.made, self.asked_at, self.is_alone = other.made, other.asked_at, True
            self.landed.set()

    @property
    def is_for_all(self) -> bool:
        """Whether its answer is also that of others."""
        return self.made.entry is not None and (self.made.is_stored or self.made.is_collapsed or self.is_alone)

    async def land(self, deadline: float) -> bool:
        """Wait for its end; False if that does not come by `deadline`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.landed.wait()
        return self.landed.is_set()


class SingleFlight:
    """The fetches of one worker."""

    def __init__(self) -> None:
        self._flights: dict[tuple[Lane, Place], _Flight] = {}

    def is_flying(self, lane: Lane, place: Place) -> bool:
        """Whether this worker is fetching that entry."""
        return (lane, place) in self._flights

    async def fetch(self, lane: Lane, place: Place, seen: bytes, origin: Origin) -> Made:
        """Another's answer, or that of `origin`; `seen` tells the entry that will not do."""
        came_at = time.monotonic()
        end = came_at + WAIT_SECONDS
        while (now := time.monotonic()) < end + WAIT_SECONDS:
            flight = self._flights.get((lane, place))
            if flight is None or (now >= end and not flight.is_alone):
                with self._leading(lane, place) as own:
                    own.conclude(made := await self._lead(lane, place, seen, origin, own, end))
                if flight:
                    flight.end_as(own)
                return made
            # Who has waited too long follows one that asks alone, as a worker needs no more than one of those.
            has_landed = await flight.land(end if now < end else end + WAIT_SECONDS)
            if flight.is_for_all and came_at < flight.asked_at:
                return Made(flight.made.entry, is_collapsed=True)
            if has_landed and not flight.is_for_all and not flight.is_void:
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
            taken = await lane.take(place, owner := new_owner(), seen)
            flight.is_void = not taken.is_ours
            if flight.is_void:
                return None
            flight.conclude(made := await self._make(lane, place, owner, origin, flight))
            return made

    @contextmanager
    def _leading(self, lane: Lane, place: Place) -> Iterator[_Flight]:
        flight = self._flights[lane, place] = _Flight()
        try:
            yield flight
        except asyncio.CancelledError:
            flight.is_void = True
            raise
        finally:
            # One that hangs is replaced by that of somebody who waited too long for it.
            if self._flights.get((lane, place)) is flight:
                del self._flights[lane, place]
            flight.landed.set()

    async def _lead(self, lane: Lane, place: Place, seen: bytes, origin: Origin, flight: _Flight, end: float) -> Made:
        owner, (pause, longest) = new_owner(), POLL_SECONDS
        while time.monotonic() < end:
            flight.asks()
            taken = await lane.take(place, owner, seen)
            if taken.is_ours:
                return replace(await self._make(lane, place, owner, origin, flight), has_others=taken.has_others)
            if taken.found and taken.found.entry:
                return Made(taken.found.entry, is_collapsed=True)
            # One that cannot be opened will not do either.
            seen = taken.found.seen if taken.found else seen
            await asyncio.sleep(max(0.0, min(pause, end - time.monotonic())))
            pause = min(2 * pause, longest)
        flight.is_alone = True
        flight.asks()
        return await _alone(origin)

    async def _make(self, lane: Lane, place: Place, owner: str, origin: Origin, flight: _Flight) -> Made:
        async with held(lane, place, owner):
            answer = await origin()
        if isinstance(answer, str):
            with suppress(LaneUnavailableError):
                await lane.release(place, owner)
            return Made(detail=answer)
        flight.asks()
        try:
            is_stored = await lane.store(place, owner, answer)
        except LaneUnavailableError as ex:
            return Made(answer, detail=ex.detail)
        flight.is_void = not is_stored
        return Made(answer, is_stored, detail="" if is_stored else "invalidated")


async def _alone(origin: Origin) -> Made:
    answer = await origin()
    return Made(detail=answer) if isinstance(answer, str) else Made(answer)
