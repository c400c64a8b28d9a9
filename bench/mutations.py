"""What it costs to do a mutation once: `make bench-mutations`.

A purchase through the platform beside the same handler writing straight to the store: one worker on one core, the store and the load
(wrk) on the other. 1,000 tenants, so that they do not wait for one another's balance; rounds alternate, and the first warms up. Both ways
pass the same token and the same limits. `worker us` and `store us` are CPU per request, `calls` round trips to the store per request,
`share` the throughput over that of the straight way in the same round. Stores: Valkey with AOF `always`, and etcd with three members that
sync.

    make bench-mutations ARGS="--rounds 1 --seconds 1"
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.cores import BESIDE, MEASURED
from bench.mutation_stores import Store, report_store, running_etcd, running_valkey
from bench.stage import Stage, server, tree_microseconds
from bench.valkey import free_port, valkey

WAYS = {"straight": "/bench/straight", "once": "/v1/credits/purchases", "replay": "/v1/credits/purchases"}
CONNECTIONS = (1, 64)
TENANTS = 1_000
PACKAGES = ("falcon", "gunicorn", "uvicorn", "uvloop", "redis", "hiredis", "aiohttp", "cryptography")
COLUMNS = "| {:8} | {:>11} | {:10} | {:>10} | {:>20} | {:>8} | {:>5} | {:>6} | {:>7} |"
_WRK = """local tokens, at, run = {
%s
}, 0, "%s"
function request()
  at = at + 1
  local key = string.format('"%%s-%%012d"', run, %s)
  return wrk.format("POST", nil, {
    Authorization = "Bearer " .. tokens[at %% #tokens + 1], ["Content-Type"] = "application/json", ["Idempotency-Key"] = key
  }, '{"amount": 100}')
end
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one run of wrk; all but the rate and the latency are per request."""

    requests_per_second: float
    p99_milliseconds: float
    worker_microseconds: float
    store_microseconds: float
    calls: float


class Bench:
    """A worker on `store`, and the load on it."""

    def __init__(self, stage: Stage, store: Store, port: int, process: int) -> None:
        self._stage = stage
        self._store = store
        self._port = port
        self._process = process
        self._runs = 0

    def measure(self, way: str, connections: int, seconds: int) -> Sample:
        """One run of wrk."""
        self._runs += 1
        if way == "replay":
            self._load(way, connections, 1)
        before = tree_microseconds(self._process), self._store.cpu(), self._store.calls()
        rate, requests, p99 = self._load(way, connections, seconds)
        after = tree_microseconds(self._process), self._store.cpu(), self._store.calls()
        worker, store, calls = (now - then for now, then in zip(after, before, strict=True))
        return Sample(rate, p99, worker / requests, store / requests, calls / requests)

    def _load(self, way: str, connections: int, seconds: int) -> tuple[float, int, float]:
        # One key for each tenant makes all but its first request a replay.
        number = "at % #tokens" if way == "replay" else "at"
        run = "replays-of-one-run" if way == "replay" else f"{self._store.name}-{os.getpid()}-{self._runs}-{time.monotonic_ns()}"
        script = self._stage.folder / "mutations.lua"
        script.write_text(_WRK % (self._stage.tokens("mutations", TENANTS), run, number))
        load = self._stage.run_wrk(f"http://127.0.0.1:{self._port}{WAYS[way]}", script, connections, seconds)
        return load.requests_per_second, load.requests, load.p99_milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs to do a mutation once.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of a run")
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    rows: list[dict[str, Any]] = []
    versions = {package: version(package) for package in PACKAGES}
    print(COLUMNS.format("store", "connections", "way", "requests/s", "worker us", "store us", "calls", "share", "p99 ms"))
    print("|" + " --- |" * 9)
    for running in (running_valkey, running_etcd):
        # Each with a region of its own: one that has served with a store takes no other.
        with (
            tempfile.TemporaryDirectory() as folder,
            valkey(Path(folder), launcher=BESIDE, over_tcp=True) as url,
            running(Path(folder) / "store") as store,
        ):
            versions[store.name] = store.version
            rows += measure_store(Stage(Path(folder), url), store, options.rounds, options.seconds)
            report_store(store)
    print(", ".join(f"{name} {of}" for name, of in versions.items()))
    print(json.dumps({"bench": "mutations", "rounds": options.rounds, "versions": versions, "rows": rows}))


def measure_store(stage: Stage, store: Store, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """All ways at all concurrencies, in turn."""
    stage.add_tier("mutations", 1)
    environment = stage.environment | {"TIDEGATE_STORE_URL": store.url, "TIDEGATE_REPLAYS_PER_MINUTE": "1000000"}
    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--log-level", "warning", "-c", "python:tidegate.server.gunicorn_config"]
    command = [*MEASURED, sys.executable, "-m", "gunicorn", "bench.mutation_apps:app", *options]
    samples: dict[tuple[str, int], list[Sample]] = {(way, connections): [] for connections in CONNECTIONS for way in WAYS}
    with server(command, f"http://127.0.0.1:{port}/livez", environment) as process:
        bench = Bench(stage, store, port, process)
        for number in range(rounds + 1):
            for (way, connections), found in samples.items():
                sample = bench.measure(way, connections, seconds if number else 1)
                if number:  # The first round warms up.
                    found.append(sample)
    return [row(store.name, way, connections, found, samples["straight", connections]) for (way, connections), found in samples.items()]


def row(store: str, way: str, connections: int, found: list[Sample], straight: list[Sample]) -> dict[str, Any]:
    """Print the medians of a way and give them."""
    theirs = summary(straight)
    ours = summary(found)
    share = statistics.median(sample.requests_per_second / other.requests_per_second for sample, other in zip(found, straight, strict=True))
    low, high = min(sample.worker_microseconds for sample in found), max(sample.worker_microseconds for sample in found)
    worker = f"{ours['worker_cpu_us']:.0f} ({low:.0f}..{high:.0f})"
    rate, p99 = f"{ours['requests_per_second']:,.0f}", f"{ours['p99_milliseconds']:.1f}"
    cells = store, connections, way, rate, worker, f"{ours['store_cpu_us']:.0f}", f"{ours['calls']:.2f}", f"{share:.0%}", p99
    print(COLUMNS.format(*cells))
    return {
        "scenario": f"{store}, {connections} connections",
        "peer": "straight",
        "way": way,
        "ratio": round(share, 3),
        "ours": ours,
        "theirs": theirs,
    }


def summary(samples: list[Sample]) -> dict[str, float]:
    """Medians."""

    def median(field: str) -> float:
        return round(float(statistics.median(getattr(sample, field) for sample in samples)), 2)

    return {
        "requests_per_second": median("requests_per_second"),
        "p99_milliseconds": median("p99_milliseconds"),
        "worker_cpu_us": median("worker_microseconds"),
        "store_cpu_us": median("store_microseconds"),
        "calls": median("calls"),
    }


if __name__ == "__main__":
    main()
