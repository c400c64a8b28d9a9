"""`throttled-py` on asyncio: GCRA, a call for each counter, which are not atomic together."""

from datetime import timedelta

from bench.peers.python.runner import Decide, Task, main
from throttled.asyncio import RateLimiterType, RedisStore, Throttled, rate_limiter


def make(task: Task) -> Decide:
    store = RedisStore(server=task.url, options={"CONNECTION_POOL_KWARGS": {"max_connections": task.concurrency}})
    throttles = []
    for counter in task.counters:
        quota = rate_limiter.per_duration(timedelta(seconds=counter.seconds), counter.limit)
        throttle = Throttled(using=RateLimiterType.GCRA.value, quota=quota, store=store, cost=counter.amount)
        throttles.append((throttle, f"{counter.unit}-{counter.seconds}-"))

    async def decide(identity: str) -> bool:
        for throttle, prefix in throttles:
            if (await throttle.limit(prefix + identity)).limited:
                return False
        return True

    return decide


if __name__ == "__main__":
    main(make, "throttled-py")
