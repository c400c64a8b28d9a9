"""The act of the tour in which a customer floods the shared cache lane, and another has a lane of its own; called by `tour.py`."""

import asyncio
import secrets
import time
from pathlib import Path

from tidegate.local.client import Answer, Client
from tidegate.local.crowd import Flood
from tidegate.local.errors import LocalRunError
from tidegate.local.keys import Grant
from tidegate.local.lane_memory import read_lane_memory
from tidegate.local.stage import AMOUNT, PURCHASES_PATH, Stage, done, expect, title

NEIGHBOUR_TIER = "pro"
NEIGHBOUR_CLIENTS = 40
"""Together they read as fast as this machine can, and none of them reaches its quota of 100 a second."""
NEIGHBOUR_ENTRIES = 16
"""Paths that are read; an eviction takes one of them with all its variants."""
FLOOD_SECONDS = 30.0
LOOK_SECONDS = 0.1


def act_neighbours(stage: Stage) -> None:
    """Fill the shared lane of a region beyond its memory, and read again what the lane of another tier has.

    Raises:
        ExpectationError: An assertion failed.
        LocalRunError: A lane does not answer, or the tour is to stop.
    """
    title("8. A neighbour floods the shared cache lane: enterprise, with a lane of its own, loses nothing")
    region = stage.run.layout.regions[0]
    shared, own = region.cache_socket, stage.run.layout.lane_socket(region)
    path = _bought(region.edge_port, stage.token)
    kept = [stage.get(region.edge_port, path) for _ in range(2)][-1]
    expect(_lane(kept) == ("Dedicated", "hit"), "a hit in the dedicated lane", kept.headers.get("cache-status"))
    before = [read_lane_memory(lane) for lane in (shared, own)]
    answers = asyncio.run(_flood(stage, region.edge_port, shared))
    after = [read_lane_memory(lane) for lane in (shared, own)]
    evicted = [now.evicted_keys - then.evicted_keys for now, then in zip(after, before, strict=True)]
    expect(evicted[1] == 0, "nothing evicted from the lane of enterprise", evicted[1])
    again = stage.get(region.edge_port, path)
    expect(_lane(again) == ("Dedicated", "hit"), "a hit still", again.headers.get("cache-status"))
    expect(again.body == kept.body, "the same answer, byte for byte", again.body)
    done(
        f"{answers} answers of a neighbour went through {after[0].maximum_bytes / 2**20:.0f} MiB: evicted_keys {evicted[0]} there, "
        f"{evicted[1]} in the lane of enterprise, whose answer is still a hit, {again.headers['age']} s old"
    )


async def _flood(stage: Stage, port: int, lane: Path) -> int:
    """How many answers it took until the lane evicted something."""
    tokens = [stage.run.keys.mint(Grant(NEIGHBOUR_TIER, "neighbour", f"client-{number}")) for number in range(NEIGHBOUR_CLIENTS)]
    flood = Flood(port, tokens, [_bought(port, tokens[0]) for _ in range(NEIGHBOUR_ENTRIES)])
    reading, before, deadline = asyncio.create_task(flood.read()), read_lane_memory(lane).evicted_keys, time.monotonic() + FLOOD_SECONDS
    try:
        while read_lane_memory(lane).evicted_keys == before:
            await asyncio.wait({reading}, timeout=LOOK_SECONDS)
            if reading.done():
                await reading
            if stage.stop.is_set():
                raise LocalRunError("stopped")
            expect(time.monotonic() < deadline, "the shared lane beyond its memory", f"not within {FLOOD_SECONDS:g} s")
    finally:
        reading.cancel()
    return flood.answers


def _bought(port: int, token: str) -> str:
    """Path of a new ledger entry of the bearer's."""
    with Client(port, token) as client:
        answer = client.post(PURCHASES_PATH, {"amount": AMOUNT}, f"demo-{secrets.token_hex(8)}")
    expect(answer.status == 201, f"201 to POST {PURCHASES_PATH}", (answer.status, answer.body))
    return answer.headers["location"]


def _lane(answer: Answer) -> tuple[str, ...]:
    """The lane of an answer, and what it did (`hit`, or what it says of the way of the request)."""
    return tuple(part.strip() for part in answer.headers.get("cache-status", "").split(";")[:2])
