"""One worker on one core: gunicorn's own `asgi` worker against ours (uvicorn on uvloop and httptools), with and without limiter.

Alternated rounds in one run; wrk and Valkey on the other core. Prints medians and one JSON line. Run: `make bench-servers`.
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
SERVERS = {"gunicorn asgi": ["-k", "asgi"], "uvicorn-worker": ["-c", "python:tidegate.gunicorn_config"]}
ROUTES = ("bare", "unlimited", "limited")
WINDOWS = {1: [("second", "1s")], 3: [("second", "1s"), ("minute", "1m"), ("hour", "1h")]}


def main() -> None:
    assert shutil.which("wrk"), "wrk is needed (Debian package wrk)"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        environment = prepare(directory, stack)
        token = (directory / "token").read_text()
        ports = {}
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
        results: dict[tuple[str, str], list[float]] = {(server, route): [] for server in SERVERS for route in ROUTES}
        for server in SERVERS:
            wait_until_ready(ports[server])
        for round_ in range(ROUNDS + 1):
            for (server, route), rates in results.items():
                rate = measure(ports[server], route, token)
                if round_:  # The first round warms up.
                    rates.append(rate)
        report(results)


def prepare(directory: Path, stack: ExitStack) -> dict[str, str]:
    url = stack.enter_context(valkey(directory, launcher=["taskset", "-c", "1"]))
    issuer = Keys(directory / "keys")
    (directory / "token").write_text(issuer.mint(Grant("bench")))
    with Redis.from_url(url) as client:
        windows = [{"name": name, "limit": 10**9, "period": period} for name, period in WINDOWS[int(os.environ.get("BENCH_WINDOWS", "3"))]]
        document = TierDocument(Tier.from_spec("bench", {"windows": windows}), uid="bench", generation=1)
        client.hset(keys.TIERS, "bench", encode_tier(document))
        client.set(keys.REVISION, 1)
    return os.environ | {
        "PYTHONPATH": ".",
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


def measure(port: int, route: str, token: str) -> float:
    command = ["taskset", "-c", "1", "wrk", "-t1", "-c64", f"-d{SECONDS}s", "-H", f"Authorization: Bearer {token}"]
    out = subprocess.run([*command, f"http://127.0.0.1:{port}/bench/{route}"], capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in out, out
    found = re.search(r"Requests/sec:\s+([0-9.]+)", out)
    assert found, out
    return float(found.group(1))


def report(results: dict[tuple[str, str], list[float]]) -> None:
    rows = []
    print(f"{'server':16} {'route':10} {'requests/s':>10}  min..max")
    for (server, route), rates in results.items():
        median = statistics.median(rates)
        rows.append({"server": server, "route": route, "requests_per_second": round(median)})
        print(f"{server:16} {route:10} {median:10.0f}  {min(rates):.0f}..{max(rates):.0f}")
    print(json.dumps({"bench": "servers", "rounds": ROUNDS, "rows": rows, "id": secrets.token_hex(4)}))


if __name__ == "__main__":
    main()
