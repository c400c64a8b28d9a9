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
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from bench.valkey import valkey
from redis import Redis

from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
IDENTITIES = 1_000
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
WRK = """local tokens, requests, at = {
%s
}, {}, 0
function init() for i, token in ipairs(tokens) do requests[i] = wrk.format("GET", nil, {Authorization = "Bearer " .. token}) end end
function request() at = at %% #requests + 1 return requests[at] end
"""
WINDOWS = {1: [("second", "1s")], 3: [("second", "1s"), ("minute", "1m"), ("hour", "1h")]}


def main() -> None:
    assert shutil.which("wrk"), "wrk is needed (Debian package wrk)"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        environment = prepare(directory, stack)
        ports, processes = {}, {}
        for number, (name, arguments) in enumerate(SERVERS.items()):
            ports[name] = 18080 + number
            command = [
                sys.executable,
                "-m",
                "gunicorn",
                "bench.apps:app",
                *arguments,
                "--workers",
                "1",
                "--bind",
                f"127.0.0.1:{ports[name]}",
            ]
            process = stack.enter_context(subprocess.Popen(["taskset", "-c", "0", *command, "--log-level", "warning"], env=environment))
            stack.callback(process.terminate)
            processes[name] = process.pid
        results: dict[tuple[str, str, int], list[Sample]] = {(server, *scenario): [] for scenario in SCENARIOS for server in SERVERS}
        for server in SERVERS:
            wait_until_ready(ports[server])
        for round_ in range(ROUNDS + 1):
            for (server, route, identities), samples in results.items():
                sample = measure(directory, ports[server], route, identities)
                if round_:  # The first round warms up.
                    samples.append(sample)
        report(results, {name: peak_mebibytes(pid) for name, pid in processes.items()})


def prepare(directory: Path, stack: ExitStack) -> dict[str, str]:
    url = stack.enter_context(valkey(directory, launcher=["taskset", "-c", "1"]))
    issuer = Keys(directory / "keys")
    for identities in (1, IDENTITIES):
        requests = [f'"{issuer.mint(Grant("bench", client=f"client-{number}"))}"' for number in range(identities)]
        (directory / f"tokens-{identities}.lua").write_text(WRK % ",\n".join(requests))
    with Redis.from_url(url) as client:
        windows = [{"name": name, "limit": 10**9, "period": period} for name, period in WINDOWS[int(os.environ.get("BENCH_WINDOWS", "3"))]]
        document = TierDocument(Tier.from_spec("bench", {"windows": windows}), uid="bench", generation=1)
        client.hset(keys.TIERS, "bench", encode_tier(document))
        client.set(keys.REVISION, 1)
    return os.environ | {
        "PYTHONPATH": "app:operator:.",
        "TIDEGATE_TOKEN_ISSUER": ISSUER,
        "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
        "TIDEGATE_TOKEN_KEYS_FILE": str(issuer.token_keys),
        "TIDEGATE_IDENTITY_KEY_FILE": str(issuer.identity),
        "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(issuer.idempotency),
        "TIDEGATE_REGION": "bench",
        "TIDEGATE_REDIS_URL": url,
        "TIDEGATE_STORE_URL": url,
        "TIDEGATE_DRAIN_SECONDS": "0",
    }


def wait_until_ready(port: int) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers on port {port}")


def measure(directory: Path, port: int, route: str, identities: int) -> Sample:
    command = ["taskset", "-c", "1", "wrk", "-t1", "-c64", f"-d{SECONDS}s", "--latency", "-s", str(directory / f"tokens-{identities}.lua")]
    out = subprocess.run([*command, f"http://127.0.0.1:{port}/bench/{route}"], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    rate, p99 = re.search(r"Requests/sec:\s+([0-9.]+)", out), re.search(r"99%\s+([0-9.]+)(us|ms|s)", out)
    assert rate, out
    assert p99, out
    return float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]]


def peak_mebibytes(master: int) -> float:
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    assert peak
    return int(peak[1]) / 1024


def report(results: dict[tuple[str, str, int], list[Sample]], peaks: dict[str, float]) -> None:
    rows = []
    print(f"{'server':16} {'route':10} {'identities':>10} {'requests/s':>10}  {'min..max':14} {'of unlimited':>12} {'p99 ms':>7}")
    for (server, route, identities), samples in results.items():
        rates = [rate for rate, _ in samples]
        median, p99 = statistics.median(rates), statistics.median(p99 for _, p99 in samples)
        share = median / statistics.median(rate for rate, _ in results[server, "unlimited", IDENTITIES])
        rows.append(
            {"server": server, "route": route, "identities": identities, "requests_per_second": round(median), "p99_milliseconds": p99}
        )
        spread = f"{min(rates):.0f}..{max(rates):.0f}"
        print(f"{server:16} {route:10} {identities:10} {median:10.0f}  {spread:14} {share:12.0%} {p99:7.1f}")
    for server, peak in peaks.items():
        print(f"{server:16} {peak:.0f} MiB at most")
    print(json.dumps({"bench": "servers", "rounds": ROUNDS, "rows": rows, "peak_mebibytes": peaks, "id": secrets.token_hex(4)}))


if __name__ == "__main__":
    main()
