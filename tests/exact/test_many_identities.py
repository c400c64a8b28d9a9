"""As many identities as a large company has customers, in one Redis."""

import asyncio

from redis.asyncio import Redis

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.redis import RedisLimiter

IDENTITIES = 100_000
BYTES = 220
"""Of one identity with a window: at most 200 for key and value, and what Redis needs to find it."""


async def test_a_hundred_thousand_identities_are_told_apart(redis: Redis):
    limiter = RedisLimiter(redis, deadline_seconds=10)
    tier = Tier.from_spec("free", {"windows": [{"name": "hour", "limit": 1, "period": "1h"}]})
    before, granted = (await redis.info("memory"))["used_memory"], []

    for first in [*range(0, IDENTITIES, 1_000)] * 2:
        decisions = await asyncio.gather(*(limiter.decide((f"{number:022}",), tier, Amounts()) for number in range(first, first + 1_000)))
        granted.append(sum(decision.granted for decision in decisions))
    after = (await redis.info("memory"))["used_memory"]
    await limiter.aclose()

    assert granted == [1_000] * 100 + [0] * 100
    assert after - before <= BYTES * IDENTITIES
