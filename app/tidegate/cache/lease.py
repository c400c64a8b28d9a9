"""Holds the lease on an entry while it is made, and gives it back if there will be none; called by `single_flight.py`."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import LEASE_MILLISECONDS, Lane, Place

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

RENEWALS = 4
"""In the time of a lease: a few may fail and the next is still in time."""
LONGEST_SECONDS = 60.0
"""A lease is renewed for so long at most: a handler that hangs must not keep everybody else's answers from being kept."""


def new_owner() -> str:
    """A name that nobody else has."""
    return secrets.token_hex(8)


@asynccontextmanager
async def held(lane: Lane, place: Place, owner: str) -> AsyncIterator[None]:
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
    end = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < end:
        with suppress(TimeoutError):
            await asyncio.wait_for(is_over.wait(), LEASE_MILLISECONDS / 1000 / RENEWALS)
            return
        try:
            if not await lane.renew(place, owner):
                return  # Lost: the store will find the same, and keep nothing.
        except LaneUnavailableError as ex:
            log.debug("a lease could not be renewed", reason=str(ex))
