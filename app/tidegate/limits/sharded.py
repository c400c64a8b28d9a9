"""The limiter where usage is spread over shards, as on a Redis Cluster; made by `application.py`.

Each shard is a limiter of its own, with its own batches under way and its own circuit: a primary that is lost takes its shards along, and
no others. With one shard there is none of this.
"""

import asyncio
from collections.abc import Awaitable

from tidegate.connections.connect import RegionalRedis
from tidegate.contract.keys import shard_of
from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.denial_memory import DenialMemory
from tidegate.limits.measures import Measures
from tidegate.limits.redis import RedisLimiter, Tids


class ShardedLimiter:
    """As `RedisLimiter`, for identities whose names begin with one of `shards` numbers from 0."""

    def __init__(self, redis: RegionalRedis, shards: int, *, deadline_seconds: float = 1.0, measures: Measures | None = None) -> None:
        denials, measures = DenialMemory(), measures or Measures()
        self._limiters = [
            RedisLimiter(redis, deadline_seconds=deadline_seconds, measures=measures, denials=denials, shard=shard)
            for shard in range(shards)
        ]

    def decide(self, tids: Tids, tier: Tier, amounts: Amounts) -> Awaitable[Decision]:
        """Charge `amounts` to every window of `tier` if all have room, else to none."""
        return self._limiters[shard_of(tids[0])].decide(tids, tier, amounts)

    async def charge(self, tids: Tids, tier: Tier, *, response_bytes: int) -> Decision:
        """Charge a response that was already granted."""
        return await self._limiters[shard_of(tids[0])].charge(tids, tier, response_bytes=response_bytes)

    async def peek(self, tids: Tids, tier: Tier) -> Decision:
        """The state of every window, without a charge."""
        return await self._limiters[shard_of(tids[0])].peek(tids, tier)

    async def start(self) -> None:
        """Connect, as `RedisLimiter` does."""
        await asyncio.gather(*(limiter.start() for limiter in self._limiters))

    async def aclose(self) -> None:
        """Fail whoever waits, and end what is under way; the client stays open."""
        await asyncio.gather(*(limiter.aclose() for limiter in self._limiters))


def limiter_of(redis: RegionalRedis, *, shards: int, deadline_seconds: float, measures: Measures) -> RedisLimiter | ShardedLimiter:
    """The limiter for that many shards."""
    if shards == 1:
        return RedisLimiter(redis, deadline_seconds=deadline_seconds, measures=measures)
    return ShardedLimiter(redis, shards, deadline_seconds=deadline_seconds, measures=measures)
