"""`pyrate-limiter` on asyncio: GCRA, whose script decides all windows of a unit at once; a call for each unit, not atomic together."""

from collections import defaultdict
from typing import Any

from bench.peers.python.runner import Decide, Task, main
from pyrate_limiter import GCRA, Rate, RateItem, RedisStateStore, StateBucket
from redis.asyncio import Redis


def make(task: Task) -> Decide:
    redis: Redis = Redis.from_url(task.url, max_connections=task.concurrency)
    rates: dict[tuple[str, int], list[Rate]] = defaultdict(list)
    for counter in task.counters:
        rates[counter.unit, counter.amount].append(Rate(counter.limit, counter.seconds * 1000))
    units = [(f"{unit}-", amount, sorted(of_unit, key=lambda rate: rate.interval)) for (unit, amount), of_unit in rates.items()]
    algorithm = GCRA()
    known: dict[str, list[tuple[Any, int]]] = {}

    def buckets(identity: str) -> list[tuple[Any, int]]:
        # What its factory of buckets does for an application: one a key, made once.
        if identity not in known:
            stores = [(RedisStateStore(redis, prefix + identity), of_unit, amount) for prefix, amount, of_unit in units]
            known[identity] = [(StateBucket(of_unit, algorithm, store), amount) for store, of_unit, amount in stores]
        return known[identity]

    async def decide(identity: str) -> bool:
        for bucket, amount in buckets(identity):
            if not await bucket.put(RateItem(identity, bucket.now(), weight=amount)):
                return False
        return True

    return decide


if __name__ == "__main__":
    main(make, "pyrate-limiter")
