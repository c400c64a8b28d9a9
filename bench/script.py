"""CPU of Redis per decision in batches of 64, beside a native floor without any sliding logic: `make bench-script`.

The floor is one BITFIELD with as many counters, pipelined 64 deep. From the server's schedstat, the least of alternated rounds.
A second table says for how long the largest batch that a worker sends holds Redis (median of the script's own time).
"""

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from bench.valkey import cpu_microseconds, valkey
from redis import Redis

from tidegate.contract import keys
from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits.decision import Amounts
from tidegate.limits.group_commit import GroupCommit, Run
from tidegate.limits.policy import policy_of
from tidegate.limits.wire import arguments, key_names

ROUNDS = 5
BATCHES = 300
BATCH = 64
IDENTITIES = 1_000
PERIODS = (1, 60, 3600)
UNITS = (Unit.REQUESTS, Unit.COST, Unit.REQUEST_BYTES)


def tier(windows: int) -> Tier:
    every = [Window(f"w{unit}{period}", 10**9, period, unit) for unit in UNITS for period in PERIODS]
    return Tier("bench", (Window("minute", 10**9, 60),) if windows == 1 else tuple(every[:windows]))


def decide(redis: Redis, windows: int) -> Callable[[int], object]:
    policy = policy_of(tier(windows))
    sha = redis.script_load(resources.files("tidegate.limits").joinpath("decide.lua").read_text())

    def batch(number: int) -> object:
        first = number * BATCH
        names = [keys.usage(f"{windows:02}{(first + n) % IDENTITIES:020}") for n in range(BATCH)]
        runs: list[Run[Any]] = [Run((name,), policy, Amounts(1, 100), callers=[None]) for name in names]
        return redis.evalsha(sha, BATCH, *names, *arguments(runs))

    return batch


def count(redis: Redis, counters: int) -> Callable[[int], object]:
    fields = [part for n in range(counters) for part in ("INCRBY", "u32", f"#{n}", 1)]

    def batch(number: int) -> object:
        pipeline: Any = redis.pipeline(transaction=False)
        for n in range(BATCH):
            pipeline.execute_command("BITFIELD", f"floor-{counters}-{(number * BATCH + n) % IDENTITIES}", *fields)
        return pipeline.execute()

    return batch


HOLDS = ((1, 0, 10**6), (1, 0, 100), (1, 0, 10), (3, 0, 100), (8, 0, 10**6), (8, 0, 100), (1, 8, 10**6), (1, 8, 100), (8, 8, 100))
"""Windows of the tier, windows of other tiers, limit of each window."""


class Caller:
    def cancelled(self) -> bool:
        return False


def hold(redis: Redis, windows: int, limit: int, *, others: int = 0) -> tuple[int, float]:
    """Runs in the largest batch, and its median microseconds once all its identities have met the limit, if that is small.

    `others` are windows of other tiers that each identity's vector holds besides.
    """
    sha = redis.script_load(resources.files("tidegate.limits").joinpath("decide.lua").read_text())
    policy = policy_of(Tier("hold", tuple(Window(f"w{number}", limit, 3600 * (number + 1)) for number in range(windows))))
    commit: GroupCommit[Caller] = GroupCommit()
    for number in range(1_000):
        commit.add((f"hold-{windows}-{limit}-{number}",), policy, Amounts(), Caller())
    batch, taken = commit.take(), []
    if others:
        other = policy_of(Tier("others", tuple(Window(f"o{number}", 10**6, 7 + number) for number in range(others))))
        redis.evalsha(sha, len(batch), *key_names(batch), *arguments([replace(run, policy=other) for run in batch]))
    for _ in range(min(limit, 100) + 30):
        redis.config_resetstat()
        redis.evalsha(sha, len(batch), *key_names(batch), *arguments(batch))
        taken.append(redis.info("commandstats")["cmdstat_evalsha"]["usec"])
    return len(batch), statistics.median(taken[-30:])


def main() -> None:
    rows = []
    print("windows   decision us   BITFIELD us   ratio   bytes a vector")
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder)) as url, Redis.from_url(url) as redis:
        pid = int(redis.info("server")["process_id"])
        for windows in (1, 3, 9):
            contenders = {"decision": decide(redis, windows), "floor": count(redis, windows)}
            least = dict.fromkeys(contenders, float("inf"))
            for _ in range(ROUNDS):
                for name, batch in contenders.items():
                    before = cpu_microseconds(pid)
                    for number in range(BATCHES):
                        batch(number)
                    least[name] = min(least[name], (cpu_microseconds(pid) - before) / (BATCHES * BATCH))
            size = redis.memory_usage(keys.usage(f"{windows:02}{0:020}"), samples=0)
            ratio = least["decision"] / least["floor"]
            print(f"{windows:7} {least['decision']:13.2f} {least['floor']:13.2f} {ratio:7.2f} {size:16}")
            rows.append({"windows": windows, **least, "ratio": round(ratio, 2), "bytes": size})
        print("windows  others   limit     runs   largest batch us")
        for windows, others, limit in HOLDS:
            redis.flushdb()
            runs, taken = hold(redis, windows, limit, others=others)
            print(f"{windows:7} {others:7} {'refused' if limit <= 100 else 'granted':>7} {runs:8} {taken:18.0f}")
            rows.append({"windows": windows, "others": others, "limit": limit, "runs": runs, "batch_microseconds": taken})
    print(json.dumps({"bench": "script", "rows": rows}))


if __name__ == "__main__":
    main()
