"""Decisions a second and their cost: `python bench/limiter.py redis://127.0.0.1:6379` flushes nothing and leaves keys that expire.

Prints, for one and three windows: callers, decisions/s, microseconds of this process and of Redis per decision, p50 latency.
"""

import asyncio
import sys
import time

from redis.asyncio import Redis

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.redis import RedisLimiter

DECISIONS = 20_000
IDENTITIES = 1_000
WINDOWS = [{"name": "second", "limit": 10**6, "period": "1s"}, {"name": "minute", "limit": 10**7, "period": "1m"}]
WINDOWS.append({"name": "hour", "limit": 10**8, "period": "1h"})


async def redis_microseconds(redis: Redis) -> float:
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6


async def measure(redis: Redis, windows: int, callers: int) -> str:
    limiter, tier = RedisLimiter(redis), Tier.from_spec("bench", {"windows": WINDOWS[:windows]})
    latencies: list[float] = []

    async def call(first: int) -> None:
        for number in range(first, DECISIONS, callers):
            started = time.perf_counter()
            await limiter.decide(f"bench-{windows}-{number % IDENTITIES}", tier, Amounts())
            latencies.append(time.perf_counter() - started)

    server, process, started = await redis_microseconds(redis), time.process_time(), time.perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    elapsed = time.perf_counter() - started
    own = (time.process_time() - process) * 1e6 / DECISIONS
    theirs = (await redis_microseconds(redis) - server) / DECISIONS
    p50 = sorted(latencies)[len(latencies) // 2] * 1e6
    return f"{windows:7} {callers:7} {DECISIONS / elapsed:11.0f} {own:8.1f} {theirs:9.1f} {p50:8.0f}"


async def main(url: str) -> None:
    print("windows callers decisions/s   own us  Redis us   p50 us")
    async with Redis.from_url(url) as redis:
        for windows in (1, 3):
            for callers in (1, 32):
                print(await measure(redis, windows, callers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
