"""One decision and its cost, beside the library `limits`: `make bench-limiter`.

`limits` decides one window a call, as its sliding counter; its row for three windows is three calls, which are not atomic together.
Rounds alternate. Prints medians: decisions a second, CPU microseconds of this process and of Redis per decision, p50 latency.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bench.valkey import valkey
from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.redis import RedisLimiter

ROUNDS = 5
DECISIONS = 5_000
IDENTITIES = 1_000
WINDOWS = [
    {"name": "second", "limit": 10**6, "period": "1s"},
    {"name": "minute", "limit": 10**7, "period": "1m"},
    {"name": "hour", "limit": 10**8, "period": "1h"},
]
ITEMS: Sequence[RateLimitItem] = (RateLimitItemPerSecond(10**6), RateLimitItemPerMinute(10**7), RateLimitItemPerHour(10**8))
COLUMNS = ("decisions_per_second", "own_microseconds", "redis_microseconds", "p50_microseconds")
Decide = Callable[[str], Awaitable[object]]
Row = tuple[float, ...]


def ours(redis: Redis, windows: int) -> Decide:
    limiter, tier = RedisLimiter(redis), Tier.from_spec("bench", {"windows": WINDOWS[:windows]})
    return lambda identity: limiter.decide((identity,), tier, Amounts())


def theirs(url: str, windows: int) -> Decide:
    # The implementation must be named: its default, coredis, fails with this version.
    limiter = SlidingWindowCounterRateLimiter(RedisStorage(f"async+{url}", implementation="redispy"))

    async def decide(identity: str) -> bool:
        return all([await limiter.hit(item, identity) for item in ITEMS[:windows]])

    return decide


async def redis_microseconds(redis: Redis) -> float:
    cpu = await redis.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6


async def measure(redis: Redis, decide: Decide, callers: int) -> Row:
    latencies: list[float] = []

    async def call(first: int) -> None:
        for number in range(first, DECISIONS, callers):
            started = time.perf_counter()
            await decide(f"bench-{number % IDENTITIES}")
            latencies.append(time.perf_counter() - started)

    server, process, started = await redis_microseconds(redis), time.process_time(), time.perf_counter()
    await asyncio.gather(*(call(first) for first in range(callers)))
    elapsed, own = time.perf_counter() - started, (time.process_time() - process) * 1e6 / DECISIONS
    return DECISIONS / elapsed, own, (await redis_microseconds(redis) - server) / DECISIONS, statistics.median(latencies) * 1e6


async def compare(url: str) -> None:
    print("windows callers  who        decisions/s  own us  Redis us  p50 us  cheaper by")
    rows = []
    async with Redis.from_url(url) as redis:
        for windows in (1, 3):
            contenders = {"tidegate": ours(redis, windows), "limits": theirs(url, windows)}
            for callers in (1, 32):
                rounds: dict[str, list[Row]] = {name: [] for name in contenders}
                for number in range(ROUNDS + 1):
                    for name, decide in contenders.items():
                        row = await measure(redis, decide, callers)
                        if number:  # the first round warms up
                            rounds[name].append(row)
                rows += report(windows, callers, rounds)
    print(json.dumps({"bench": "limiter", "rounds": ROUNDS, "rows": rows}))


def report(windows: int, callers: int, rounds: dict[str, list[Row]]) -> list[dict[str, object]]:
    medians = {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in rounds.items()}
    base = medians["tidegate"][1]
    for name, (rate, own, redis, p50) in medians.items():
        print(f"{windows:7} {callers:7}  {name:10} {rate:11.0f} {own:7.1f} {redis:9.1f} {p50:7.0f} {own / base:11.2f}")
    return [
        {"windows": windows, "callers": callers, "who": name, **dict(zip(COLUMNS, (round(value, 1) for value in row), strict=True))}
        for name, row in medians.items()
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory, valkey(Path(directory)) as server:
        asyncio.run(compare(server))
