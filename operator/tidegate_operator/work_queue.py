"""A keyed queue that coalesces: a key waits once, runs once at a time, comes back with backoff; fed and served by the reconciler."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import structlog

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 15.0


def backoff_seconds(failures: int) -> float:
    """Delay before try number `failures` + 1: doubling, capped, with jitter over its upper half so that retries spread out."""
    return min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311 - jitter


class WorkQueue:
    """Runs `work` for keys that were added.

    Args:
        work: Takes a key; returns whether it is done. False brings the key back with backoff, and so does an exception, which is logged.
        concurrency: How many keys are worked on at a time.
    """

    def __init__(self, work: Callable[[str], Awaitable[bool]], *, concurrency: int = 8) -> None:
        self._work = work
        self._concurrency = concurrency
        self._first: dict[str, None] = {}
        self._waiting: dict[str, None] = {}
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def add(self, key: str, *, first: bool = False) -> None:
        """Have `key` worked on, `first` before all keys that are not; once more after the current run, if it is being worked on now."""
        (self._first if first else self._waiting)[key] = None
        self._wake.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._serve())

    async def _serve(self) -> None:
        while True:
            key = await self._take()
            try:
                is_done = await self._work(key)
            except Exception:
                log.exception("working on a key failed unexpectedly", key=key)
                is_done = False
            self._busy.discard(key)
            self._settle(key, is_done=is_done)

    async def _take(self) -> str:
        while True:
            for key in itertools.chain(self._first, self._waiting):
                if key not in self._busy:
                    self._first.pop(key, None)
                    self._waiting.pop(key, None)
                    self._busy.add(key)
                    return key
            self._wake.clear()
            await self._wake.wait()

    def _settle(self, key: str, *, is_done: bool) -> None:
        # One retry waits at most: a key that was added meanwhile, and failed again, would otherwise come back once more often from then on.
        if retry := self._retries.pop(key, None):
            retry.cancel()
        if is_done:
            self._failures.pop(key, None)
            return
        self._failures[key] = self._failures.get(key, 0) + 1
        self._retries[key] = asyncio.get_running_loop().call_later(backoff_seconds(self._failures[key]), self.add, key)
