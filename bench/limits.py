"""One decision and its cost, beside other limiters and what Redis itself must spend: `make bench-limits`.

Every contender is a process of its own on one core, with the contract of `bench/peers/python/runner.py`; Valkey is on the other core. In a
round all of them run one after the other, each in a Redis that knows its identities and nothing else; their first two runs warm up. CPU
microseconds per decision, of the client and of Redis, hardly depend on what else the machine does; decisions a second do. `p50 us` is how
long a single caller waits for a decision. `ratio` is the median over the rounds of a contender's client CPU by ours in the same round.

    make bench-limits ARGS="--rounds 1 --decisions 2000 --scenarios S1,S4"
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cores import BESIDE, MEASURED
from bench.peers.registry import OURS, PEERS, Peer
from bench.scenarios import SCENARIOS, Scenario
from bench.valkey import cpu_microseconds, valkey
from redis import Redis
from tests.kube.tools import ToolBuildFailed, ToolUnavailable

WARM_UP = 1_024
LONGEST_SECONDS = 0.8
"""Of a run: whoever is slower decides less often."""
COLUMNS = "{:38} {:>5} {:>24} {:>24} {:>24} {:>8} {:>9} {:>5}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a run of one contender took, per decision."""

    client_microseconds: float
    redis_microseconds: float
    decisions_per_second: float
    granted: float
    p50_microseconds: float | None


class Contender:
    """A process that decides, and the Redis in which it does."""

    def __init__(self, process: subprocess.Popen[str], redis: Redis) -> None:
        self._process = process
        self._redis = redis
        self._redis_process = int(redis.info("server")["process_id"])
        self.versions: dict[str, str] = self._answer()

    def run(self, decisions: int, *, first: int) -> Sample:
        """Decide so often, in a Redis that holds nothing but what the `first` decisions, which are not measured, left there."""
        self._redis.flushall()
        if first:
            self._decide(first)
        before = cpu_microseconds(self._redis_process)
        answer = self._decide(decisions)
        redis = cpu_microseconds(self._redis_process) - before
        rate, granted = decisions / answer["elapsed"], answer["granted"] / decisions
        return Sample(answer["cpu_us"] / decisions, redis / decisions, rate, granted, answer["p50_us"])

    def _decide(self, decisions: int) -> Any:
        assert self._process.stdin
        self._process.stdin.write(f"{decisions}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)


@contextmanager
def contender(command: list[str], arguments: list[str], redis: Redis) -> Iterator[Contender]:
    """Start one; it ends with the end of its standard input."""
    environment = os.environ | {"PYTHONPATH": "app:operator:."}
    whole = [*MEASURED, *command, *arguments]
    with subprocess.Popen(whole, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Contender(process, redis)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of one decision, beside other limiters.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=20_480, help="of a run, at most")
    parser.add_argument("--scenarios", default=",".join(scenario.name for scenario in SCENARIOS))
    options = parser.parse_args()
    # Whoever reads through a pipe sees each table when it is there.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    commands = dict(available())
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder), launcher=BESIDE, over_tcp=True) as url, Redis.from_url(url) as redis:
        versions["valkey"] = str(redis.info("server").get("valkey_version"))
        for scenario in SCENARIOS:
            for concurrency in scenario.concurrencies if scenario.name in options.scenarios.split(",") else ():
                bout = Bout(scenario, concurrency, options.rounds, options.decisions)
                rows += bout.report(bout.hold(url, redis, commands, versions))
    print_matrix(rows)
    print(", ".join(f"{name} {version}" for name, version in sorted(versions.items())))
    print(json.dumps({"bench": "limits", "rounds": options.rounds, "versions": versions, "rows": rows}))


def available() -> Iterator[tuple[Peer, list[str]]]:
    """Every contender that can be had here, with its command."""
    for peer in PEERS:
        try:
            yield peer, peer.command()
        except (ToolUnavailable, ToolBuildFailed) as ex:
            print(f"left out: {peer.name}, {ex}")


@dataclass(frozen=True, slots=True)
class Bout:
    """One scenario with one number of callers."""

    scenario: Scenario
    concurrency: int
    rounds: int
    decisions: int

    def hold(self, url: str, redis: Redis, commands: dict[Peer, list[str]], versions: dict[str, str]) -> dict[Peer, list[Sample]]:
        """Run everybody in turn; adds to `versions`."""
        arguments = [url, self.scenario.to_json(self.decisions), str(self.concurrency)]
        with ExitStack() as stack:
            contenders = {}
            for peer, command in commands.items():
                if not peer.scenarios or self.scenario.name in peer.scenarios:
                    contenders[peer] = stack.enter_context(contender(command, arguments, redis))
                    versions.update(contenders[peer].versions)
            decisions = {peer: self._decisions(one) for peer, one in contenders.items()}
            samples: dict[Peer, list[Sample]] = {peer: [] for peer in contenders}
            for _ in range(self.rounds):
                for peer, one in contenders.items():
                    samples[peer].append(one.run(decisions[peer], first=self.scenario.first))
        return samples

    def _decisions(self, one: Contender) -> int:
        decisions = min(WARM_UP, self.decisions)
        for _ in range(2):  # A compiler that learns has only begun to after the first.
            fitting = round(one.run(decisions, first=0).decisions_per_second * LONGEST_SECONDS) // WARM_UP * WARM_UP
            decisions = max(min(WARM_UP, self.decisions), min(self.decisions, fitting))
        # Where most are refused, the limit was set for exactly so many.
        return decisions if self.scenario.granted_share == 1 else self.decisions

    def report(self, samples: dict[Peer, list[Sample]]) -> list[dict[str, Any]]:
        """Print the table of this bout and give its rows."""
        print(f"\n{self.scenario.name}: {self.scenario.title}; {self.concurrency} callers")
        print(COLUMNS.format("", "calls", "client us", "Redis us", "times ours", "p50 us", "per s", "pass"))
        ours = samples[OURS]
        return [self._row(peer, ours, theirs) for peer, theirs in samples.items()]

    def _row(self, peer: Peer, ours: list[Sample], theirs: list[Sample]) -> dict[str, Any]:
        calls, figures = peer.calls(self.scenario), summary(theirs)
        ratios = [their.client_microseconds / our.client_microseconds for our, their in zip(ours, theirs, strict=True)]
        client, redis = (spread([getattr(sample, name) for sample in theirs]) for name in ("client_microseconds", "redis_microseconds"))
        rate, granted, p50 = f"{figures['decisions_per_second']:,.0f}", f"{figures['granted']:.0%}", figures["p50_us"] or ""
        print(COLUMNS.format(peer.name, calls, client, redis, spread(ratios), p50, rate, granted))
        return {
            "scenario": self.scenario.name,
            "concurrency": self.concurrency,
            "peer": peer.name,
            "calls": calls,
            "ratio": round(statistics.median(ratios), 2),
            "ratio_spread": [round(min(ratios), 2), round(max(ratios), 2)],
            "ours": summary(ours),
            "theirs": figures,
        }


def print_matrix(rows: list[dict[str, Any]]) -> None:
    """Client and Redis microseconds of everybody in everything, as docs/performance.md has them."""
    bouts = list(dict.fromkeys((row["scenario"], row["concurrency"]) for row in rows))
    cells = {(row["peer"], row["scenario"], row["concurrency"]): row["theirs"] for row in rows}
    print("\n| client / Redis us |", *(f"{scenario}, {concurrency} |" for scenario, concurrency in bouts))
    print("| --- |", *("--- |" for _ in bouts))
    for peer in dict.fromkeys(row["peer"] for row in rows):
        found = [cells.get((peer, *bout)) for bout in bouts]
        print(f"| {peer} |", *(f"{_cell(figures)} |" for figures in found))
    print()


def _cell(figures: dict[str, Any] | None) -> str:
    if not figures:
        return ""
    p50 = f"; p50 {figures['p50_us']:.0f}" if figures["p50_us"] else ""
    return f"{figures['client_cpu_us']:.1f} / {figures['redis_cpu_us']:.1f}{p50}"


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Medians, and the spread of what both ends spent."""
    client, redis = [s.client_microseconds for s in samples], [s.redis_microseconds for s in samples]
    p50s = [s.p50_microseconds for s in samples if s.p50_microseconds is not None]
    return {
        "client_cpu_us": round(statistics.median(client), 3),
        "client_cpu_us_spread": [round(min(client), 3), round(max(client), 3)],
        "redis_cpu_us": round(statistics.median(redis), 3),
        "redis_cpu_us_spread": [round(min(redis), 3), round(max(redis), 3)],
        "decisions_per_second": round(statistics.median(s.decisions_per_second for s in samples)),
        "granted": round(statistics.median(s.granted for s in samples), 3),
        "p50_us": round(statistics.median(p50s), 1) if p50s else None,
    }


def spread(values: list[float]) -> str:
    """Median, least and greatest, as text."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}..{max(values):.1f})"


if __name__ == "__main__":
    main()
