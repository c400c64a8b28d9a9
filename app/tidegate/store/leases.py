"""By which lease of etcd a value disappears; called by `etcd.py`.

A lease for each value would cost etcd more than the value. So all values that a process writes within a while, and that are to be kept
equally long, share one. Only spans of the event loop's monotonic clock count, which no wrong time of day can move (IDEM-17).
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from tidegate.store.errors import StoreUnavailableError
from tidegate.store.gateway import Gateway, begin, shared
from tidegate.store.members import Call, EtcdRefusalError

BUCKET_SHARE = 0.25
LONGEST_BUCKET_SECONDS = 3_600.0
"""For how long a lease takes values: a quarter of their retention, as they stay that much too long; at most an hour."""
MOST_VALUES = 2_000
"""Of a lease: etcd deletes them all in one step, during which nobody commits; 9 ms for these (docs/decisions/0006)."""


@dataclass(slots=True)
class _Lease:
    name: int
    last_deadline: float
    """Of a commit that may still take it; such a one takes effect early enough for its values to be kept as long as they should."""
    values: int = 0


class _Granted(msgspec.Struct):
    name: int = msgspec.field(name="ID")


class Leases:
    """The leases of this process, one at a time for each retention."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._current: dict[int, _Lease] = {}
        self._grants: dict[int, asyncio.Task[None]] = {}

    async def take(self, retentions: Iterable[int | None], deadline: float) -> Mapping[int, int]:
        """The lease for a value of each retention in seconds that is not None.

        Raises:
            StoreUnavailableError: etcd granted none in time.
        """
        taken: dict[int, int] = {}
        for retention_seconds in filter(None, retentions):
            lease = await self._lease(retention_seconds, deadline)
            lease.values += 1
            taken[retention_seconds] = lease.name
        return taken

    def forget(self, taken: Mapping[int, int]) -> None:
        """Take no more of these: etcd does not know one of them."""
        for retention_seconds, name in taken.items():
            if (lease := self._current.get(retention_seconds)) and lease.name == name:
                del self._current[retention_seconds]

    async def aclose(self) -> None:
        """Wait for nothing any more. The leases stay, as the values do."""
        for task in self._grants.values():
            task.cancel()
        await asyncio.gather(*self._grants.values(), return_exceptions=True)

    async def _lease(self, retention_seconds: int, deadline: float) -> _Lease:
        while True:
            lease = self._current.get(retention_seconds)
            if lease and deadline <= lease.last_deadline and lease.values < MOST_VALUES:
                return lease
            grant = self._grants.get(retention_seconds)
            if grant is None or grant.done():
                grant = self._grants[retention_seconds] = begin(self._grant(retention_seconds))
            # That one may have been asked for too long ago for this commit; the next one will not.
            await shared(grant, deadline)

    async def _grant(self, retention_seconds: int) -> None:
        bucket_seconds = min(retention_seconds * BUCKET_SHARE, LONGEST_BUCKET_SECONDS)
        # A commit that begins as the bucket ends may take effect as its deadline does, and must be kept as long from then on.
        lifetime_seconds = math.ceil(retention_seconds + bucket_seconds + self._gateway.timeout_seconds)
        deadline = self._gateway.deadline()
        try:
            # One that was granted twice holds nothing and ends by itself.
            answer = await self._gateway.call("lease/grant", {"TTL": lifetime_seconds}, _Granted, call=Call.READ, deadline=deadline)
        except EtcdRefusalError as ex:
            raise StoreUnavailableError(f"etcd grants no lease: {ex}") from None
        self._current[retention_seconds] = _Lease(answer.name, deadline + bucket_seconds)
