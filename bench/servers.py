"""One worker on one core: gunicorn's own `asgi` worker against ours (uvicorn on uvloop and httptools), with and without limiter.

Alternated rounds in one run; wrk with 64 connections and Valkey on the other core; 1,000 identities, and one hot one. `bare` is Falcon with
our middleware but no token, `unlimited` verifies the token, `limited` decides on three windows too. A third server is ours with Python's
own thresholds of garbage collection. Prints medians, p99, the most memory that each worker ever had, and one JSON line.
Run: `make bench-servers`.
"""

import json
import os
import re
import secrets
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.cores import BESIDE, MEASURED
from bench.stage import IDENTITIES, Stage, server
from bench.valkey import free_port, valkey

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
OURS = ["-c", "python:tidegate.server.gunicorn_config"]
SERVERS = {
    "gunicorn asgi": ["-k", "asgi"],
    "uvicorn-worker": OURS,
    "same, default gc": [*OURS, "-k", "bench.default_collection.DefaultCollectionWorker"],
}
SCENARIOS = (("bare", IDENTITIES), ("unlimited", IDENTITIES), ("limited", IDENTITIES), ("limited", 1))
"""Route and number of identities."""
Sample = tuple[float, float]
"""Requests a second and p99 in milliseconds."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stage = Stage(Path(folder), stack.enter_context(valkey(Path(folder), launcher=BESIDE)))
        stage.add_tier("bench", int(os.environ.get("BENCH_WINDOWS", "3")))
        ports, processes = {}, {}
        for name, arguments in SERVERS.items():
            ports[name] = free_port()
            bind = ["--bind", f"127.0.0.1:{ports[name]}", "--workers", "1", "--log-level", "warning"]
            command = [*MEASURED, sys.executable, "-m", "gunicorn", "bench.apps:app", *arguments, *bind]
            processes[name] = stack.enter_context(server(command, f"http://127.0.0.1:{ports[name]}/livez", stage.environment))
        results: dict[tuple[str, str, int], list[Sample]] = {(name, *scenario): [] for scenario in SCENARIOS for name in SERVERS}
        for round_ in range(ROUNDS + 1):
            for (name, route, identities), samples in results.items():
                load = stage.load(f"http://127.0.0.1:{ports[name]}/bench/{route}", "bench", identities, SECONDS)
                if round_:  # The first round warms up.
                    samples.append((load.requests_per_second, load.p99_milliseconds))
        report(results, {name: peak_mebibytes(pid) for name, pid in processes.items()})


def peak_mebibytes(master: int) -> float:
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert peak
    return int(peak[1]) / 1024


def report(results: dict[tuple[str, str, int], list[Sample]], peaks: dict[str, float]) -> None:
    rows = []
    print(f"{'server':16} {'route':10} {'identities':>10} {'requests/s':>10}  {'min..max':14} {'of unlimited':>12} {'p99 ms':>7}")
    for (name, route, identities), samples in results.items():
        rates = [rate for rate, _ in samples]
        median, p99 = statistics.median(rates), statistics.median(p99 for _, p99 in samples)
        share = median / statistics.median(rate for rate, _ in results[name, "unlimited", IDENTITIES])
        rows.append(
            {"server": name, "route": route, "identities": identities, "requests_per_second": round(median), "p99_milliseconds": p99}
        )
        spread = f"{min(rates):.0f}..{max(rates):.0f}"
        print(f"{name:16} {route:10} {identities:10} {median:10.0f}  {spread:14} {share:12.0%} {p99:7.1f}")
    for name, peak in peaks.items():
        print(f"{name:16} {peak:.0f} MiB at most")
    print(json.dumps({"bench": "servers", "rounds": ROUNDS, "rows": rows, "peak_mebibytes": peaks, "id": secrets.token_hex(4)}))


if __name__ == "__main__":
    main()
