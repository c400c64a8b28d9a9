"""One worker of a trace: asks the limiter as the scenario says, and writes every grant with the instant that Redis gave it.

The first refusal by each window is written too: its identity and name.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.redis import RedisLimiter
from tidegate.limits.wire import Answer, decided_at

COSTS = (1, 1, 1, 2, 5)


class WritingLimiter(RedisLimiter):
    """Writes a line per run that was granted: instant, identity, requests and their cost; before any caller hears of it."""

    met: frozenset[tuple[str, str]] = frozenset()

    def write_refusals(self, key: str, decision: Decision) -> None:
        """A line per window that refuses for the first time: identity and name."""
        for window in {(key, name) for name in decision.violated} - self.met:
            print(json.dumps(window), flush=True)
            self.met |= {window}

    def _land(self, flight: Any, found: Sequence[Decision | Answer | None]) -> None:
        at = decided_at(flight.reply.result())
        for run, answer in zip(flight.runs, found, strict=True):
            granted = len(run.callers) if isinstance(answer, Decision) else answer.granted if answer else 0
            if granted and not run.amounts.is_charge:
                print(json.dumps([at, run.tids[0], granted, run.amounts.cost]), flush=True)
        super()._land(flight, found)


async def pause(scenario: str) -> None:
    """The time between two requests of one caller."""
    match scenario:
        case "poisson":
            await asyncio.sleep(random.expovariate(40))
        case "bursts":
            # Everybody at once, just before and just after the turn of a sub-window.
            now = time.time()
            await asyncio.sleep(0.1 - now % 0.1 + random.choice((-0.001, 0.0, 0.0005)))
        case "edges":
            # Spend all, then come back exactly when a window of a second turns.
            now = time.time()
            await asyncio.sleep(1 - now % 1 + random.choice((0.0, 0.1, 0.099, 0.999)))
        case _:
            await asyncio.sleep(0)


async def ask(limiter: WritingLimiter, tiers: Mapping[str, Sequence[Tier]], scenario: str, edited_at: float, until: float) -> None:
    while time.time() < until:
        # Half-way the tier is edited: the limits change, and the periods of two windows.
        key = random.choice("ab")
        tier = tiers[key][time.time() > edited_at]
        try:
            decision = await limiter.decide((key,), tier, Amounts(cost=random.choice(COSTS)))
        except LimitStoreUnavailableError:
            await asyncio.sleep(0.01)
        else:
            limiter.write_refusals(key, decision)
        await pause(scenario)


async def main(url: str, scenario: str, tiers_file: str) -> None:
    tiers = {key: [Tier.from_spec("t", spec) for spec in pair] for key, pair in json.loads(Path(tiers_file).read_text()).items()}
    async with Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)) as redis:
        limiter = WritingLimiter(redis)
        await redis.ping()
        print("ready", flush=True)
        edited_at, until = sys.stdin.readline().split()
        await asyncio.gather(*(ask(limiter, tiers, scenario, float(edited_at), float(until)) for _ in range(16)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
