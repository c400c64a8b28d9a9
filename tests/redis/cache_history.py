"""A process that reads and changes paths of one lane until it is killed, and writes down what it saw; started by `test_cache_histories.py`.

    python -m tests.redis.cache_history LANE_URL TRUTH_URL SEED FILE

A line is `read PATH START VERSION` or `change PATH END VERSION`, in nanoseconds of the machine's monotonic clock.
"""

import asyncio
import os
import random
import sys
import time

from redis.asyncio import Redis

from tidegate.cache import lane as lane_module
from tidegate.cache import lease
from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import Lane
from tidegate.cache.sealing import LaneKeys
from tidegate.cache.single_flight import SingleFlight
from tidegate.connections.connect import connect
from tidegate.connections.url import RedisUrl
from tidegate.contract.tier import Lane as LaneKind

CLIENTS, PATHS = 12, "ab"
# Leases that end while their owner is asleep.
lane_module.LEASE_MILLISECONDS = lease.LEASE_MILLISECONDS = 80


class Process:
    """Clients of one worker."""

    def __init__(self, lane: Lane, truth: Redis, seed: int, file: int) -> None:
        self.lane, self.truth, self.random, self.file = lane, truth, random.Random(seed), file
        self.flights = SingleFlight()

    async def client(self) -> None:
        while True:
            path = self.random.choice(PATHS)
            try:
                await (self.change(path) if self.random.random() < 0.1 else self.read(path))
            except LaneUnavailableError:
                continue

    async def read(self, path: str) -> None:
        start, place, version = time.monotonic_ns(), self.lane.place("acme", path), b""

        async def origin() -> Entry:
            nonlocal version
            version = await self.truth.get(path) or b"0"
            await asyncio.sleep(self.random.random() * 0.02)
            return Entry({}, version, time.time(), 60.0, 0, 0, 0.0)

        found = await self.lane.read(place)
        if found.entry and self.random.random() < 0.9:
            if self.random.random() < 0.1:
                await self.flights.refresh(self.lane, place, found.seen, origin)
            version = found.entry.body
        else:
            fetch = self.flights.fetch if self.random.random() < 0.8 else self.flights.fetch_now
            made = await fetch(self.lane, place, found.seen, origin)
            version = made.entry.body if made.entry else version
        self.note("read", path, start, version)

    async def change(self, path: str) -> None:
        version = await self.truth.incr(path)
        await asyncio.sleep(self.random.random() * 0.005)
        await self.lane.forget(self.lane.key("acme", path))
        self.note("change", path, time.monotonic_ns(), b"%d" % version)

    def note(self, deed: str, path: str, when: int, version: bytes) -> None:
        # One write, so that a kill leaves whole lines.
        os.write(self.file, f"{deed} {path} {when} {int(version)}\n".encode())


async def main(lane_url: str, truth_url: str, seed: str, file: str) -> None:
    client = connect(RedisUrl(lane_url), timeout_seconds=2)
    lane = Lane(LaneKind.SHARED, LaneKeys("shared", b"n" * 32, b"s" * 32), client, timeout_seconds=2)
    async with Redis.from_url(truth_url) as truth:
        process = Process(lane, truth, int(seed), os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
        await asyncio.gather(*(process.client() for _ in range(CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
