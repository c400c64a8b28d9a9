"""A primary dies or hangs, and another server takes over: when decisions come back, and what the limit may be passed by."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.topologies import AT_ONCE, Sentinels

from tidegate.connections.connect import connect_region
from tidegate.connections.url import RegionUrl
from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.redis import RedisLimiter

LIMIT = 6_000
TIER = Tier.from_spec("pro", {"windows": [{"name": "hour", "limit": LIMIT, "period": "1h"}]})
ONE = Amounts()
BACK_SECONDS = 5.0
"""By the docs, with a primary given up after 300 ms."""
LAG_SECONDS = 0.1
"""What a replica may lack, on one machine."""


class Traffic:
    """Asks again and again, and knows when it was granted."""

    def __init__(self, limiter: RedisLimiter, *, callers: int = 4) -> None:
        self.grants: list[float] = []
        self.used = 0
        self.refused = self.failures = 0
        self._limiter = limiter
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(callers)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            try:
                decision = await self._limiter.decide(("t",), TIER, ONE)
            except LimitStoreUnavailableError:
                self.failures += 1
                await asyncio.sleep(0.01)
                continue
            if decision.granted:
                self.grants.append(time.monotonic())
                self.used = decision.windows[0].used
            else:
                self.refused += 1
            await asyncio.sleep(0.001)


@asynccontextmanager
async def traffic(url: str) -> AsyncIterator[Traffic]:
    redis = connect_region(RegionUrl(url), timeout_seconds=0.25)
    limiter = RedisLimiter(redis, deadline_seconds=0.1)
    asking = Traffic(limiter)
    try:
        yield asking
    finally:
        await asking.stop()
        await limiter.aclose()
        await redis.aclose()


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_a_replica_takes_over_and_the_limit_is_passed_by_no_more_than_it_lacked(
    valkeys: Callable[..., Any], eventually: Callable[..., Any], tmp_path: Path, end: str
) -> None:
    primary = valkeys(*AT_ONCE)
    replica = valkeys("--replicaof", f"127.0.0.1 {primary.port}")
    watched = Sentinels(valkeys, tmp_path, primary=primary)
    watched.wait_for(replica)
    async with traffic(watched.url) as asking:
        await eventually(lambda: len(asking.grants) > LIMIT / 4)
        primary.kill() if end == "killed" else primary.freeze()
        ended, before = time.monotonic(), len(asking.grants)

        await eventually(lambda: len(asking.grants) > before + 10, BACK_SECONDS)
        back_seconds = asking.grants[before + 9] - ended
        lacked = len(asking.grants) - asking.used
        if end == "frozen":
            # It still takes itself for the primary, until the Sentinels tell it.
            primary.thaw()
        await eventually(lambda: asking.refused > 10, 30.0)
        total = len(asking.grants)

    async with replica.client() as redis:
        left = (await RedisLimiter(redis).peek(("t",), TIER)).windows[0].used
    late = sum(ended - LAG_SECONDS < at <= ended for at in asking.grants)
    print(f"{end}: back after {back_seconds:.2f} s; lacked {lacked}; admitted {total} of {LIMIT}; {late} in the last {LAG_SECONDS} s")
    assert left == LIMIT, "somebody else counted"
    assert LIMIT - 10 <= total <= LIMIT + late
