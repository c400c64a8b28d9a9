"""What a hit costs, beside the handler without a lane and beside a bare read of Redis: `make bench-cache`.

One worker's application in this process on one core, asked through ASGI without a server; Valkey is on the other core. The route is not
limited, so that nothing but token, scopes and lane is measured. CPU microseconds of the worker per request are medians over alternated
rounds; `p50 us` is how long a single caller waits. `commands` is what a request has the lane's Redis execute.

    make bench-cache ARGS="--rounds 1 --requests 200"
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from bench.cores import BESIDE
from bench.valkey import valkey
from falcon.asgi import Request, Response
from redis.asyncio import Redis

from tidegate.application import create_app
from tidegate.cache.policy import CachePolicy
from tidegate.connections.connect import connect
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys
from tidegate.settings import Settings
from tidegate.telemetry import configure_logging

BODY_BYTES = 1_024
PATH = "/bench/cached"
COLUMNS = "{:34} {:>24} {:>8} {:>8} {:>9}"


class Cached:
    """The cheapest handler there is: a hit cannot be cheaper than its own read of Redis."""

    rate_limited = False
    cached = CachePolicy(scopes=frozenset())

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data, resp.content_type = b"x" * BODY_BYTES, "text/plain"


class Hits:
    """A client of the application that keeps nothing but the status and Cache-Status of an answer."""

    def __init__(self, app: Any, token: str, **fields: str) -> None:
        named = {"authorization": f"Bearer {token}", **fields}
        self._app = app
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
        self._scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": PATH, "query_string": b"",
            "headers": headers, "scheme": "http", "server": ("api", 80),
        }  # fmt: skip
        self.answer: dict[str, Any] = {}

    async def ask(self) -> None:
        await self._app(dict(self._scope), self._receive, self._send)

    @property
    def cache_status(self) -> str:
        return str(dict(self.answer["headers"]).get(b"cache-status", b"").decode())

    async def _receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, event: dict[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self.answer = event


@dataclass(slots=True)
class Contender:
    """Something to ask for, and what asking took."""

    name: str
    ask: Callable[[], Awaitable[Any]]
    cpu_microseconds: list[float] = field(default_factory=list)
    p50_microseconds: list[float] = field(default_factory=list)
    commands: float = 0.0

    async def run(self, requests: int) -> None:
        waits = []
        before = time.process_time_ns()
        for _ in range(requests):
            started = time.perf_counter_ns()
            await self.ask()
            waits.append(time.perf_counter_ns() - started)
        self.cpu_microseconds.append((time.process_time_ns() - before) / requests / 1000)
        self.p50_microseconds.append(statistics.median(waits) / 1000)

    def row(self, floor: float) -> dict[str, Any]:
        cpu, p50 = statistics.median(self.cpu_microseconds), statistics.median(self.p50_microseconds)
        spread = f"{cpu:.1f} ({min(self.cpu_microseconds):.1f}..{max(self.cpu_microseconds):.1f})"
        print(COLUMNS.format(self.name, spread, f"{cpu - floor:+.1f}", f"{p50:.0f}", f"{self.commands:g}"))
        return {"name": self.name, "cpu_us": round(cpu, 1), "p50_us": round(p50, 1), "commands": self.commands}


async def measure(url: str, folder: Path, rounds: int, requests: int) -> None:
    issuer = Keys(folder / "keys")
    app = create_app(Settings.from_environment(environment(issuer, url)))
    app.add_route(PATH, Cached())
    async with Redis.from_url(url) as redis:
        for name, lane in (("kept", "Shared"), ("plain", "None")):
            tier = Tier.from_spec(
                name, {"windows": [{"name": "hour", "limit": 10**9, "period": "1h"}], "cache": {"lane": lane, "ttl": "24h"}}
            )
            await redis.hset(keys.TIERS, name, encode_tier(TierDocument(tier, name, 1)))
        await redis.set(keys.REVISION, 1)
        await redis.set("bare", b"x" * (BODY_BYTES + 300))
        started, stop = await lifespan(app)
        await started.wait()
        rows = await hold(app, issuer, connect(url, timeout_seconds=1), redis, rounds, requests)
        stop.set()
    print(json.dumps({"bench": "cache", "rounds": rounds, "requests": requests, "body_bytes": BODY_BYTES, "rows": rows}))


async def hold(app: Any, issuer: Keys, bare: Redis, redis: Redis, rounds: int, requests: int) -> list[dict[str, Any]]:
    kept, plain = issuer.mint(Grant("kept")), issuer.mint(Grant("plain"))
    hit, uncached = Hits(app, kept), Hits(app, plain)
    await hit.ask()
    etag = dict(hit.answer["headers"])[b"etag"].decode()
    contenders = [
        Contender("handler, no lane", uncached.ask),
        Contender("hit", hit.ask),
        Contender("hit, 304", Hits(app, kept, if_none_match=etag).ask),
        Contender("GET of redis-py, no request", lambda: bare.get("bare")),
    ]
    for contender in contenders:
        await redis.config_resetstat()
        await contender.run(100)  # also warms up
        commands = await redis.info("commandstats")
        asked = sum(row["calls"] for name, row in commands.items() if name in ("cmdstat_hget", "cmdstat_get", "cmdstat_evalsha"))
        contender.commands = round(asked / 100, 1)
        contender.cpu_microseconds.clear()
        contender.p50_microseconds.clear()
    assert "; hit;" in hit.cache_status, hit.cache_status
    for _ in range(rounds):
        for contender in contenders:
            await contender.run(requests)
    await bare.aclose()
    print(COLUMNS.format("", "worker us", "more us", "p50 us", "commands"))
    return [contender.row(statistics.median(contenders[0].cpu_microseconds)) for contender in contenders]


async def lifespan(app: Any) -> tuple[asyncio.Event, asyncio.Event]:
    """Start the application as a server does; it stops with the process."""
    started, stop = asyncio.Event(), asyncio.Event()
    events = iter([{"type": "lifespan.startup"}])

    async def receive() -> Any:
        for event in events:
            return event
        await stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(event: dict[str, Any]) -> None:
        started.set()

    serving = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}, receive, send))
    serving.add_done_callback(lambda task: task.exception())
    return started, stop


def environment(issuer: Keys, url: str) -> dict[str, str]:
    return {
        "TIDEGATE_TOKEN_ISSUER": ISSUER,
        "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
        "TIDEGATE_TOKEN_KEYS_FILE": str(issuer.token_keys),
        "TIDEGATE_IDENTITY_KEY_FILE": str(issuer.identity),
        "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(issuer.idempotency),
        "TIDEGATE_RESULT_KEY_FILE": str(issuer.result),
        "TIDEGATE_REGION": "bench",
        "TIDEGATE_REDIS_URL": url,
        "TIDEGATE_STORE_URL": url,
        "TIDEGATE_CACHE_URL": url,
        # A machine that is busy elsewhere must not have what happens without a lane measured.
        "TIDEGATE_CACHE_TIMEOUT_SECONDS": "1",
        "TIDEGATE_REDIS_TIMEOUT_SECONDS": "5",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a hit.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=2_000, help="of a round, for each")
    options = parser.parse_args()
    configure_logging("error")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder), launcher=BESIDE, over_tcp=True) as url:
        uvloop.run(measure(url, Path(folder), options.rounds, options.requests))


if __name__ == "__main__":
    main()
