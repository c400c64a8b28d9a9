"""What a region's Redis remembers of the consistent store; called by `trust.py`."""

import asyncio
from importlib import resources

from redis.exceptions import RedisError

from tidegate.connections.connect import RegionalRedis
from tidegate.contract import keys
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.incarnation import Incarnation

CALL_SECONDS = 2.0
"""Longest time for a call, whatever the client's own timeouts are."""


class RegionalMemory:
    """The mark of the store that the region has served with.

    Both methods raise StoreUnavailableError when the region's Redis does not answer.
    """

    def __init__(self, redis: RegionalRedis) -> None:
        self._remember = redis.register_script(resources.files(__package__).joinpath("remember.lua").read_text())

    async def recall(self) -> Incarnation | None:
        """The mark that is remembered."""
        return await self._call(b"")

    async def remember(self, incarnation: Incarnation) -> None:
        """Remember this one, unless one that was accepted later is remembered."""
        await self._call(incarnation.encode())

    async def _call(self, argument: bytes) -> Incarnation | None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                kept = await self._remember(keys=[keys.STORE], args=[argument])
        except (RedisError, OSError, TimeoutError) as ex:
            raise StoreUnavailableError(f"the region's Redis, which remembers the store, did not answer: {type(ex).__name__}") from ex
        return Incarnation.decode(kept) if kept else None
