"""A primary dies or hangs, and another server takes over: when decisions come back, and what the limit may be passed by."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.topologies import AT_ONCE, Sentinels, ValkeyCluster

from tidegate.connections.connect import connect_region
from tidegate.connections.url import RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument
from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.redis import RedisLimiter
from tidegate.limits.sharded import ShardedLimiter
from tidegate.tiers.source import TierSource
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.publisher import Publisher

LIMIT = 6_000
TIER = Tier.from_spec("pro", {"windows": [{"name": "hour", "limit": LIMIT, "period": "1h"}]})
ONE = Amounts()
BACK_SECONDS = 5.0
"""By the docs, with a primary given up after 300 ms."""
LAG_SECONDS = 0.1
"""What a replica may lack, on one machine."""


class Traffic:
    """Asks again and again, and knows when it was granted."""

    def __init__(self, limiter: RedisLimiter | ShardedLimiter, tid: str = "t", *, callers: int = 4) -> None:
        self.grants: list[float] = []
        self.used = 0
        self.refused = self.failures = 0
        self.longest_pause = 0.0
        self.limiter = limiter
        self._tids = (tid,)
        self._tasks = [asyncio.create_task(self._ask()) for _ in range(callers)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            try:
                decision = await self.limiter.decide(self._tids, TIER, ONE)
            except LimitStoreUnavailableError:
                self.failures += 1
                await asyncio.sleep(0.01)
                continue
            if decision.granted:
                now = time.monotonic()
                self.longest_pause = max(self.longest_pause, now - self.grants[-1] if self.grants else 0.0)
                self.grants.append(now)
                self.used = decision.windows[0].used
            else:
                self.refused += 1
            await asyncio.sleep(0.001)


@asynccontextmanager
async def traffic(url: str, *, callers: int = 4) -> AsyncIterator[Traffic]:
    redis = connect_region(RegionUrl(url), timeout_seconds=0.25)
    limiter = RedisLimiter(redis, deadline_seconds=0.1)
    asking = Traffic(limiter, callers=callers)
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

    async with traffic(replica.url, callers=0) as asking_replica:
        left = (await asking_replica.limiter.peek(("t",), TIER)).windows[0].used
    late = sum(ended - LAG_SECONDS < at <= ended for at in asking.grants)
    print(f"{end}: back after {back_seconds:.2f} s; lacked {lacked}; admitted {total} of {LIMIT}; {late} in the last {LAG_SECONDS} s")
    assert left == LIMIT, "somebody else counted"
    assert LIMIT - 10 <= total <= LIMIT + late


SHARDS = 12


@asynccontextmanager
async def traffic_on_each_primary(cluster: ValkeyCluster) -> AsyncIterator[list[Traffic]]:
    """Of an identity with each primary, all in one worker."""
    names = [keys.sharded("t", shard) for shard in range(SHARDS)]
    redis = connect_region(RegionUrl(cluster.url), timeout_seconds=0.25)
    # A machine that is busy elsewhere must not make a primary look lost that is not.
    limiter = ShardedLimiter(redis, SHARDS, deadline_seconds=0.5)
    asking = [
        Traffic(limiter, next(name for name in names if cluster.primary_of(keys.usage(name)) is primary)) for primary in cluster.primaries
    ]
    try:
        yield asking
    finally:
        for one in asking:
            await one.stop()
        await limiter.aclose()
        await redis.aclose()


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_a_lost_primary_takes_its_shards_along_and_no_others(
    clusters: Callable[..., ValkeyCluster], eventually: Callable[..., Any], end: str
) -> None:
    cluster = clusters()
    lost = cluster.primaries[0]
    async with traffic_on_each_primary(cluster) as asking:
        await eventually(lambda: all(len(one.grants) > 100 for one in asking))
        for one in asking:
            one.failures, one.longest_pause = 0, 0.0
        lost.kill() if end == "killed" else lost.freeze()

        await asyncio.sleep(2.5)
        failures, pauses = [one.failures for one in asking], [one.longest_pause for one in asking]
        before = len(asking[0].grants)
        lost.start() if end == "killed" else lost.thaw()
        await eventually(lambda: len(asking[0].grants) > before + 10, BACK_SECONDS)

    print(f"{end}: failures {failures}, longest pauses {pauses}")
    assert failures[0] > 10
    assert failures[1:] == [0, 0]


async def test_a_replica_in_a_cluster_takes_over_and_the_limit_is_passed_by_no_more_than_it_lacked(
    clusters: Callable[..., ValkeyCluster], eventually: Callable[..., Any]
) -> None:
    cluster = clusters(replicas=1)
    async with traffic_on_each_primary(cluster) as asking:
        first = asking[0]
        await eventually(lambda: len(first.grants) > LIMIT / 4, 20.0)
        cluster.primaries[0].kill()
        ended, before = time.monotonic(), len(first.grants)

        await eventually(lambda: len(first.grants) > before + 10, BACK_SECONDS)
        back_seconds = first.grants[before + 9] - ended
        await eventually(lambda: first.refused > 10, 30.0)

    late = sum(ended - LAG_SECONDS < at <= ended for at in first.grants)
    print(f"cluster: back after {back_seconds:.2f} s; admitted {len(first.grants)} of {LIMIT}; {late} in the last {LAG_SECONDS} s")
    assert LIMIT - 10 <= len(first.grants) <= LIMIT + late
    assert [one.failures for one in asking[1:]] == [0, 0]


@pytest.mark.parametrize("form", ["sentinels", "cluster"])
async def test_tiers_and_heartbeats_follow_to_the_new_primary(
    valkeys: Callable[..., Any], clusters: Callable[..., ValkeyCluster], eventually: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    """What the operator publishes after a failover is enforced, and the operator hears so."""
    if form == "sentinels":
        primary = valkeys(*AT_ONCE)
        watched = Sentinels(valkeys, tmp_path, primary=primary)
        watched.wait_for(valkeys("--replicaof", f"127.0.0.1 {primary.port}"))
        url = watched.url
    else:
        # A replica of each primary: the tiers lie with one of them.
        cluster = clusters(replicas=3)
        primary, url = cluster.primary_of(keys.TIERS), cluster.url
    redis = connect_region(RegionUrl(url), timeout_seconds=0.25)
    publisher = Publisher.connect("frankfurt", url, timeout_seconds=0.5)
    source = TierSource(redis, worker_id="w", default_tier="pro", last_good=None)

    async def publishes(generation: int) -> bool:
        with suppress(RegionUnreachableError):
            document = TierDocument(TIER, uid="u", generation=generation)
            await publisher.fill([document])
            return await publisher.publish(document) in ("published", "equal")
        return False

    async def is_enforced() -> bool:
        with suppress(RegionUnreachableError):
            view = await publisher.view()
            return view.is_settled and view.revision == source.snapshot.revision
        return False

    try:
        await publishes(1)
        await source.start()
        await eventually(is_enforced)
        await asyncio.sleep(LAG_SECONDS)
        primary.kill()
        ended = time.monotonic()

        await eventually(lambda: publishes(2), BACK_SECONDS)
        published = time.monotonic() - ended
        await eventually(is_enforced, BACK_SECONDS)
        assert source.connected
    finally:
        await source.stop()
        await redis.aclose()
        await publisher.aclose()

    print(f"{form}: published after {published:.2f} s, enforced after {time.monotonic() - ended:.2f} s")
