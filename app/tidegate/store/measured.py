"""Counts and times the calls to the consistent store; wrapped around an adapter by `application.py`, read by `metrics.py`."""

import time
from collections.abc import Mapping, Sequence

from tidegate.distribution import Distribution
from tidegate.store.base import Committed, Conflict, ConsistentStore, Versioned, Write
from tidegate.store.errors import StoreUnavailableError


class Calls:
    """The calls of one kind, since the start of the worker: how long the answered ones took, and how many got no answer."""

    def __init__(self) -> None:
        self.seconds = Distribution(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
        self.unanswered = 0


class MeasuredStore:
    """A `ConsistentStore` that asks `store`; `reads` and `commits` are what came of it."""

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store
        self.reads = Calls()
        self.commits = Calls()

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`."""
        started = time.perf_counter()
        try:
            found = await self._store.read(keys, or_stale=or_stale)
        except StoreUnavailableError:
            self.reads.unanswered += 1
            raise
        self.reads.seconds.observe(time.perf_counter() - started)
        return found

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Carry out all `writes` or none."""
        started = time.perf_counter()
        try:
            result = await self._store.commit(expected, writes)
        except StoreUnavailableError:
            self.commits.unanswered += 1
            raise
        self.commits.seconds.observe(time.perf_counter() - started)
        return result

    async def check(self) -> None:
        """Raise StoreMisconfiguredError if the store may lose what it acknowledged."""
        await self._store.check()

    async def close(self) -> None:
        """Release the connections to the store."""
        await self._store.close()
