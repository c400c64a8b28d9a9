"""The limiter as a worker has it."""

from bench.peers.python.runner import Decide, Task, main

from tidegate.connections.connect import connect
from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits.decision import Amounts
from tidegate.limits.redis import RedisLimiter


def make(task: Task) -> Decide:
    # Not through `from_spec`: nine windows are one more than a tier may have.
    windows = tuple(Window(f"w{n}", counter.limit, counter.seconds, Unit(counter.unit)) for n, counter in enumerate(task.counters))
    tier = Tier("bench", windows)
    amounts = Amounts(**{FIELDS[counter.unit]: counter.amount for counter in task.counters if counter.unit in FIELDS})
    limiter = RedisLimiter(connect(task.url, timeout_seconds=1.0))

    async def decide(identity: str) -> bool:
        return (await limiter.decide((identity,), tier, amounts)).granted

    return decide


FIELDS = {"Cost": "cost", "RequestBytes": "request_bytes"}

if __name__ == "__main__":
    main(make, "tidegate")
