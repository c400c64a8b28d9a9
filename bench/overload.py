"""What becomes of goodput, fairness and latency when more is asked than can be done: `make bench-overload`.

Four workers, each before a backend of its own that does 16 requests at once in 0.5 to 1.5 s and shares that among more, so that
capacity is 64 requests a second whatever the CPU. An open-loop client sends each request when it is due, to a worker by chance, and leaves
after 4 s. 8 tenants of tier `enterprise` ask for 5 % of the capacity in every run; 20 of `pro`, one of which asks 20 times as much as each
other, for five sixths of the rest of the load, and 10 of `free` for the last sixth.

Contenders: our seats; nothing before the backend; an `asyncio.Semaphore` as wide as the backend in each worker; Envoy's local rate limit,
set to the capacity, before workers without any. `shares` has everybody of every tier ask for more than its share, at 5 times the capacity;
`per weight` is what an enterprise tenant got there by what one of `pro` got, each divided by its weight.

    make bench-overload ARGS="--seconds 5"
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from bench import proxies
from bench.open_loop import PATIENCE_SECONDS, Answer, OpenLoop, Tenant
from bench.queue_cost import costs
from bench.stage import Stage, beside, server
from bench.valkey import DURABLE, free_port, valkey

WORKERS, AT_ONCE, SECONDS = 4, 16, 1.0
CAPACITY = WORKERS * AT_ONCE / SECONDS
WARM_UP_SECONDS = 5.0
"""Queues are as full as they get by then."""
COOL_DOWN_SECONDS = 4.0
"""Until what was measured is answered the load goes on, or the last would be served as if there were none."""
LOOP_SECONDS = 0.025
"""How late a busy event loop may take note of the end of a wait."""
FREE_PERCENT = 5
TIERS = {
    "enterprise": {"weight": 40, "queue": {"maxWait": "2s", "maxDepth": 100}},
    "pro": {"weight": 10, "queue": {"maxWait": "2s", "maxDepth": 100}},
    "free": {"weight": 1, "queue": {"maxWait": "2s", "maxDepth": 100}},
}
LONGEST_WAIT_SECONDS = {"enterprise": 2.0, "pro": 2.0, "free": 2.0}
TENANTS = {"enterprise": 8, "pro": 20, "free": 10}
HEAVY, HEAVY_TIMES = "pro-0", 20
ENTERPRISE_LOAD = 0.05
PRO_PART = 5 / 6
SHARES_MIX = {"enterprise": 0.45, "pro": 0.45, "free": 0.1}
COLUMNS = "| {:19} | {:>5} | {:>8} | {:>7} | {:>9} | {:>9} | {:>8} | {:>17} | {:>17} | {:>10} | {:>10} | {:>13} |"
HEAD = (
    "contender",
    "load",
    "answered",
    "goodput",
    "Jain of 19",
    "Jain of 20",
    "heavy",
    "enterprise served",
    "enterprise p99 ms",
    "free share",
    "per weight",
    "longest queue",
)


@dataclass(frozen=True, slots=True)
class Contender:
    """What stands before the backends."""

    name: str
    seats: int = 10_000
    guard: str = "nothing"
    is_behind_envoy: bool = False
    loads: tuple[float, ...] = (0.5, 5)


SHARES = Contender("tidegate, shares", seats=AT_ONCE, loads=(5,))
CONTENDERS = (
    Contender("tidegate", seats=AT_ONCE, loads=(0.5, 1, 2, 5)),
    SHARES,
    Contender("nothing"),
    Contender("asyncio.Semaphore", guard="semaphore"),
    Contender("Envoy's local limit", is_behind_envoy=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Goodput, fairness and latency under overload.")
    parser.add_argument("--seconds", type=float, default=20, help="measured, of a run")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    micro = costs()
    for name, microseconds in micro.items():
        print(f"{name}: {microseconds} us")
    print(f"\ncapacity {CAPACITY:.0f}/s, {options.seconds:.0f} s a run")
    print(COLUMNS.format(*HEAD))
    print("|" + " --- |" * len(HEAD))
    rows = []
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder), over_tcp=True, options=DURABLE) as url:
        stage = Stage(Path(folder), url)
        for name, admission in TIERS.items():
            stage.add_tier(name, 1, admission={"maxInFlight": 10_000, **admission})
        for contender in CONTENDERS:
            with serving(stage, contender) as ports:
                for load in contender.loads:
                    answers = uvloop.run(drive(stage, ports, contender, load, WARM_UP_SECONDS + options.seconds + COOL_DOWN_SECONDS))
                    rows.append(report(contender, load, answers, options.seconds))
    print(json.dumps({"bench": "overload", "capacity": CAPACITY, "microseconds": micro, "rows": rows}))


@contextmanager
def serving(stage: Stage, contender: Contender) -> Iterator[list[int]]:
    """Start workers, and the proxy if there is one; gives the ports to ask."""
    environment = stage.environment | {
        "BENCH_SECONDS": str(SECONDS),
        "BENCH_AT_ONCE": str(AT_ONCE),
        "BENCH_GUARD": contender.guard,
        "TIDEGATE_SEATS": str(contender.seats),
        "TIDEGATE_DEFAULT_TIER_PERCENT": str(FREE_PERCENT),
    }
    with ExitStack() as stack:
        ports = [free_port() for _ in range(WORKERS)]
        for port in ports:
            # What clients have left is not worth to wait for.
            bind = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--log-level", "critical", "--graceful-timeout", "1"]
            command = [sys.executable, "-m", "gunicorn", "bench.overload_app:app", "-c", "python:tidegate.server.gunicorn_config", *bind]
            stack.enter_context(server(command, f"http://127.0.0.1:{port}/livez", environment))
        if contender.is_behind_envoy:
            port = free_port()
            configuration = stage.folder / "envoy.json"
            configuration.write_text(json.dumps(proxies.envoy([proxies.capped(port, round(CAPACITY))], *ports)))
            command = [beside("envoy"), "-c", str(configuration), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
            stack.enter_context(server(command, f"http://127.0.0.1:{port}/livez", environment))
            ports = [port]
        yield ports


async def drive(stage: Stage, ports: Sequence[int], contender: Contender, load: float, seconds: float) -> list[Answer]:
    """Offer `load` times the capacity for so long."""
    loop = OpenLoop(ports, "/bench/work")
    try:
        return await loop.run(tenants(stage, contender, load * CAPACITY), seconds, seed=1)
    finally:
        loop.close()
        await asyncio.sleep(0)


def tenants(stage: Stage, contender: Contender, total: float) -> list[Tenant]:
    """Everybody, asking `total` a second together."""
    found = []
    enterprise = ENTERPRISE_LOAD * CAPACITY / total
    mix = (
        SHARES_MIX
        if contender is SHARES
        else {"enterprise": enterprise, "pro": (1 - enterprise) * PRO_PART, "free": (1 - enterprise) * (1 - PRO_PART)}
    )
    for tier, share in mix.items():
        parts = {f"{tier}-{number}": 1 for number in range(TENANTS[tier])}
        if HEAVY in parts and contender is not SHARES:
            parts[HEAVY] = HEAVY_TIMES
        for name, part in parts.items():
            authorization = f"Bearer {stage.token(tier, name)}"
            found.append(Tenant(name, tier, authorization, total * share * part / sum(parts.values())))
    return found


def report(contender: Contender, load: float, answers: list[Answer], seconds: float) -> dict[str, Any]:
    """Print the line of a run and give its row; of what was due between warm-up and cool-down."""
    measured = [answer for answer in answers if WARM_UP_SECONDS <= answer.at < WARM_UP_SECONDS + seconds]
    served = [answer for answer in measured if answer.status == 200]
    counts = Counter(answer.tenant.name for answer in served)
    by_tier = Counter(answer.tenant.tier for answer in served)
    equal = [counts[f"pro-{number}"] for number in range(TENANTS["pro"])]
    enterprise = sorted(answer.seconds for answer in served if answer.tenant.tier == "enterprise")
    longest = {tier: max((a.queue_seconds for a in served if a.tenant.tier == tier), default=0.0) for tier in TIERS}
    row = {
        "contender": contender.name,
        "load": load,
        "offered_per_second": round(len(measured) / seconds, 1),
        "answered": round(sum(answer.status != 0 for answer in measured) / len(measured), 3),
        "goodput": round(len(served) / min(CAPACITY * seconds, len(measured)), 3),
        "jain_of_19": jain(equal[1:]),
        "jain_of_20": jain(equal),
        "heavy_by_median": round(equal[0] / (statistics.median(equal[1:]) or 1), 2),
        "enterprise_served": round(len(enterprise) / sum(answer.tenant.tier == "enterprise" for answer in measured), 3),
        "enterprise_p99_ms": round(enterprise[int(len(enterprise) * 0.99)] * 1000) if enterprise else None,
        "shares": {tier: round(by_tier[tier] / (len(served) or 1), 3) for tier in TIERS},
        "per_weight": {tier: round(by_tier[tier] / TENANTS[tier] / int(str(TIERS[tier]["weight"])) / seconds, 4) for tier in TIERS},
        "longest_queue_ms": {tier: round(wait * 1000, 1) for tier, wait in longest.items()},
        "is_within_deadlines": all(longest[tier] <= wait + LOOP_SECONDS for tier, wait in LONGEST_WAIT_SECONDS.items()),
    }
    print_row(row)
    return row


def jain(counts: Sequence[int]) -> float:
    """1 where all are equal, 1 / n where one has it all (Jain, Chiu, Hawe 1984)."""
    return round(sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts) or 1), 3)


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    longest = max(row["longest_queue_ms"].values())
    print(
        COLUMNS.format(
            row["contender"],
            f"{row['load']} x",
            f"{row['answered']:.0%}",
            f"{row['goodput']:.1%}",
            row["jain_of_19"],
            row["jain_of_20"],
            f"x {row['heavy_by_median']}",
            f"{row['enterprise_served']:.0%}",
            row["enterprise_p99_ms"] or "",
            f"{row['shares']['free']:.1%}",
            f"x {row['per_weight']['enterprise'] / row['per_weight']['pro']:.2f}" if row["contender"] == SHARES.name else "",
            f"{longest:.0f} ms" if longest else "",
        )
    )


assert max(LONGEST_WAIT_SECONDS.values()) + 1.5 * SECONDS < PATIENCE_SECONDS, "clients would leave those who are served in time"

if __name__ == "__main__":
    main()
