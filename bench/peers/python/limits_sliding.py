"""`limits` on asyncio: its sliding counter, a call for each counter, which are not atomic together."""

from bench.peers.python.runner import Decide, Task, main
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter


def make(task: Task) -> Decide:
    # The implementation must be named: its default, coredis, fails with this version.
    storage = RedisStorage(f"async+{task.url}", implementation="redispy", max_connections=task.concurrency)
    limiter = SlidingWindowCounterRateLimiter(storage)
    items = [(RateLimitItemPerSecond(counter.limit, counter.seconds), counter.unit, counter.amount) for counter in task.counters]

    async def decide(identity: str) -> bool:
        for item, unit, amount in items:
            if not await limiter.hit(item, unit, identity, cost=amount):
                return False
        return True

    return decide


if __name__ == "__main__":
    main(make, "limits")
