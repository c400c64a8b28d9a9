"""What a decision costs while Redis is lost, killed or frozen: `make bench-loss`.

A Valkey is taken away under a limiter that decided on it. From the moment when its circuit is open, requests of 1,000 identities come one
after the other to the step of the middleware that decides. Nobody waits for Redis but those who try it again, one each quarter of a second:
they are the slowest. Microseconds of time; `CPU us` is the mean of what this process spent, making the
request included.
"""

import asyncio
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop
from bench.stage import WINDOWS
from bench.valkey import valkey
from redis import Redis

from tidegate.connections.connect import connect
from tidegate.contract.tier import OnStoreLoss, Tier
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.local import LocalLimiter
from tidegate.limits.middleware import LimitsMiddleware, replay_tier
from tidegate.limits.redis import RedisLimiter
from tidegate.server.worker import settle_garbage_collection
from tidegate.telemetry import configure_logging

SECONDS = 3.0
IDENTITIES = 1_000
TIMEOUT_SECONDS = 0.25
DEADLINE_SECONDS = 0.05
"""Both as a worker has them unless told otherwise."""
LOSSES = {"killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
COLUMNS = "| {:6} | {:10} | {:>9} | {:>6} | {:>6} | {:>6} | {:>7} |"


def main() -> None:
    configure_logging("error")
    print(COLUMNS.format("Redis", "the tier", "decisions", "p50 us", "p99 us", "CPU us", "slowest"))
    rows = [measure(loss, choice) for loss in LOSSES for choice in OnStoreLoss]
    print(json.dumps({"bench": "loss", "rows": rows}))


def measure(loss: str, choice: OnStoreLoss) -> dict[str, Any]:
    """Lose a Valkey so, and print what its decisions cost a tier that chose that."""
    with tempfile.TemporaryDirectory() as folder, valkey(Path(folder), over_tcp=True) as url:
        with Redis.from_url(url) as redis:
            process = int(redis.info("server")["process_id"])
        try:
            waits, cpu = uvloop.run(_decide(url, choice, lambda: os.kill(process, LOSSES[loss])))
        finally:
            os.kill(process, signal.SIGCONT)  # or it would not end
    percentiles = statistics.quantiles(waits, n=100)
    figures = {"p50_us": percentiles[49], "p99_us": percentiles[98], "cpu_us": cpu, "slowest_us": max(waits)}
    rounded = {name: round(value, 1) for name, value in figures.items()}
    print(COLUMNS.format(loss, choice, len(waits), *rounded.values()))
    return {"loss": loss, "on_store_loss": choice, "decisions": len(waits), **rounded}


async def _decide(url: str, choice: OnStoreLoss, lose: Callable[[], None]) -> tuple[list[float], float]:
    windows = [{"name": name, "limit": 10**9, "period": period} for name, period in WINDOWS[3]]
    tier = Tier.from_spec("bench", {"windows": windows, "degradation": {"onStoreLoss": choice}})
    limiter = RedisLimiter(connect(url, timeout_seconds=TIMEOUT_SECONDS), deadline_seconds=DEADLINE_SECONDS)
    step = LimitsMiddleware(limiter, LocalLimiter(lambda: 1), replay_tier(600))
    await _is_decided(step, tier, "first")
    lose()
    while await _is_decided(step, tier, "first"):
        await asyncio.sleep(0)
    settle_garbage_collection()
    waits: list[float] = []
    cpu, until = time.process_time(), time.monotonic() + SECONDS
    while time.monotonic() < until:
        tid = f"identity-{len(waits) % IDENTITIES}"
        asked_at = time.perf_counter()
        await _is_decided(step, tier, tid)
        waits.append((time.perf_counter() - asked_at) * 1e6)
    spent = (time.process_time() - cpu) * 1e6 / len(waits)
    await limiter.aclose()
    return waits, spent


async def _is_decided(step: LimitsMiddleware, tier: Tier, tid: str) -> bool:
    """Whether a request passes because Redis says so."""
    request: Any = SimpleNamespace(method="GET", uri_template="/", context=SimpleNamespace(tids=(tid,), tier=tier, body=b""))
    response: Any = SimpleNamespace(complete=False)
    try:
        await step.process_resource(request, response, object(), {})
    except LimitStoreUnavailableError:
        return False
    return not hasattr(request.context, "store_loss")


if __name__ == "__main__":
    main()
