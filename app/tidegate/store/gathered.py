"""Sends the reads of one turn of the event loop to the consistent store as one; wrapped around an adapter by `application.py`."""

import asyncio
from collections.abc import Mapping, Sequence

from tidegate.store.base import Committed, Conflict, ConsistentStore, Versioned, Write

MOST_KEYS = 64
"""Of one call: half of what a transaction of etcd may have by default (`--max-txn-ops`)."""


class GatheredReads:
    """A `ConsistentStore` that asks `store` once for all who ask in the same turn.

    A call begins after all whom it answers have asked, so nobody misses what was committed before; and what it finds is of one instant. A
    caller that is cancelled takes nobody along.
    """

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store
        self._open: dict[bool, _Batch] = {}

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`."""
        batch = self._open.get(or_stale)
        if batch is None or len(batch.keys) + len(keys) > MOST_KEYS:
            # With its keys before its call: where tasks begin at once (eager_task_factory), nobody shares, and nobody asks for nothing.
            batch = self._open[or_stale] = _Batch(keys)
            batch.call = asyncio.get_running_loop().create_task(self._send(batch, or_stale=or_stale))
            # All who asked may be gone by then: nobody else asks how it ended, and asyncio would log a failure as forgotten.
            batch.call.add_done_callback(lambda call: call.cancelled() or call.exception())
        else:
            batch.keys.update(dict.fromkeys(keys))
        # Unlike `shield`, which since Python 3.14 logs the failure of a call once for each caller that was cancelled.
        await asyncio.wait((batch.call,))
        found = batch.call.result()
        return {key: found[key] for key in keys if key in found}

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Carry out all `writes` or none."""
        return await self._store.commit(expected, writes)

    async def check(self) -> None:
        """Raise StoreMisconfiguredError if the store may lose what it acknowledged."""
        await self._store.check()

    async def close(self) -> None:
        """Release the connections to the store."""
        await self._store.close()

    async def _send(self, batch: "_Batch", *, or_stale: bool) -> dict[str, Versioned]:
        # A task begins in the turn after that which made it: by now all of that turn have asked.
        if self._open.get(or_stale) is batch:
            del self._open[or_stale]
        return await self._store.read(list(batch.keys), or_stale=or_stale)


class _Batch:
    """Keys that are asked for, each once and in order, and the call that asks."""

    __slots__ = ("call", "keys")

    call: asyncio.Task[dict[str, Versioned]]

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = dict.fromkeys(keys)
