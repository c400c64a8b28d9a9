"""The contract of a contender, for those in Python: arguments are the URL of Redis, the scenario as JSON and the number of callers.

A contender prints its versions as one JSON line, and then one line for every number of decisions that it reads: `decisions`, `granted`,
`elapsed` in seconds, `cpu_us`, what all of its threads spent, and `p50_us`, how long a single caller waited for a decision at the median
(null where there are more). Those in Python run on uvloop and hiredis, and collect garbage as our worker does.
"""

import asyncio
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version

import uvloop
from bench.scenarios import Counter

from tidegate.server.worker import settle_garbage_collection

Decide = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Task:
    """What a contender is to do."""

    url: str
    counters: tuple[Counter, ...]
    identities: int
    fresh: bool
    concurrency: int


def main(make: Callable[[Task], Decide], *packages: str) -> None:
    """Decide with what `make` makes, until standard input ends."""
    url, scenario, concurrency = sys.argv[1:]
    parsed = json.loads(scenario)
    counters = tuple(Counter(**counter) for counter in parsed["counters"])
    task = Task(url, counters, parsed["identities"], parsed["fresh"], int(concurrency))
    versions = {package: version(package) for package in (*packages, "redis", "hiredis", "uvloop")}
    print(json.dumps({"python": platform.python_version(), **versions}), flush=True)
    uvloop.run(_serve(task, make))


async def _serve(task: Task, make: Callable[[Task], Decide]) -> None:
    decide = make(task)
    settle_garbage_collection()
    for run, line in enumerate(sys.stdin):
        prefix = f"{run}-" if task.fresh else ""
        names = [f"{prefix}identity-{number}" for number in range(task.identities)]
        print(json.dumps(await _run(task.concurrency, int(line), names, decide)), flush=True)


async def _run(concurrency: int, decisions: int, names: list[str], decide: Decide) -> dict[str, float | None]:
    waits: list[float] = []

    async def call(first: int) -> int:
        return sum([await decide(names[number % len(names)]) for number in range(first, decisions, concurrency)])

    async def call_alone() -> int:
        granted = 0
        for number in range(decisions):
            asked_at = time.perf_counter()
            granted += await decide(names[number % len(names)])
            waits.append(time.perf_counter() - asked_at)
        return granted

    cpu, started = _cpu_microseconds(), time.perf_counter()
    granted = await call_alone() if concurrency == 1 else sum(await asyncio.gather(*(call(first) for first in range(concurrency))))
    elapsed = time.perf_counter() - started
    spent, p50 = _cpu_microseconds() - cpu, statistics.median(waits) * 1e6 if waits else None
    return {"decisions": decisions, "granted": granted, "elapsed": elapsed, "cpu_us": spent, "p50_us": p50}


def _cpu_microseconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) * 1e6
