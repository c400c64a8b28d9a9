"""The consistent store on etcd v3: one transaction a read, one a commit, and no watch; made by `application.py`.

A key is kept under a prefix, so that a user of etcd needs rights to nothing else; its version is the revision that wrote it.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from tidegate.connections.etcd import EtcdServers
from tidegate.store.base import Committed, Conflict, Versioned, Write
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.gateway import Gateway
from tidegate.store.leases import Leases
from tidegate.store.members import NOT_FOUND, OUT_OF_RANGE, Call, EtcdRefusalError

Answer = TypeVar("Answer")

PREFIX = "tidegate/1/"
"""Of every key; the `1` is the layout's version."""
LEASE_ATTEMPTS = 3
NO_MAJORITY_SECONDS = 1.0
"""After a read in vain, for how long reads that may be stale do not ask for a majority."""
NEARLY_FULL, COMPACTED = 0.8, 0.5
"""Shares of the quota: from the one on somebody should look, from the other on old revisions should have been compacted."""


class _KeyValue(msgspec.Struct):
    key: bytes
    mod_revision: int
    value: bytes = b""


class _Range(msgspec.Struct):
    kvs: list[_KeyValue] = []


class _Response(msgspec.Struct):
    response_range: _Range = msgspec.field(default_factory=_Range)


class _Header(msgspec.Struct):
    revision: int


class _Transaction(msgspec.Struct):
    header: _Header
    succeeded: bool = False
    responses: list[_Response] = []

    def found(self) -> dict[str, _KeyValue]:
        """What the ranges found, by key."""
        pairs = (pair for response in self.responses for pair in response.response_range.kvs)
        return {pair.key.decode().removeprefix(PREFIX): pair for pair in pairs}


class _Status(msgspec.Struct, rename="camel"):
    errors: list[str] = []
    db_size: int = 0
    db_size_quota: int = 0


class EtcdStore:
    """A `ConsistentStore` on the members of one etcd cluster, the nearest that answers first.

    Args:
        servers: Where they are and who we are.
        timeout_seconds: Deadline of every call, whatever it takes: a login, a lease, several members.
    """

    def __init__(self, servers: EtcdServers, *, timeout_seconds: float) -> None:
        self._gateway = Gateway(servers, timeout_seconds=timeout_seconds)
        self._leases = Leases(self._gateway)
        self._no_majority_until = 0.0

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`, all of one instant; a stale read may take the deadline of two calls."""
        if not keys:
            return {}
        clock = asyncio.get_running_loop().time
        if not or_stale or clock() >= self._no_majority_until:
            try:
                return await self._read(keys)
            except StoreUnavailableError:
                if not or_stale:
                    raise
                # Whoever reads meanwhile need not wait for the same.
                self._no_majority_until = clock() + NO_MAJORITY_SECONDS
        return await self._read(keys, serializable=True)

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Write all or nothing in one transaction, which is sent to one member, once."""
        deadline = self._gateway.deadline()
        for _ in range(LEASE_ATTEMPTS):
            leases = await self._leases.take((write.retention_seconds for write in writes), deadline)
            body = {
                "compare": [_compare(key, version) for key, version in expected.items()],
                "success": [_operation(write, leases) for write in writes],
                "failure": [_range(key, keys_only=True) for key in expected],
            }
            try:
                with _translated(but=NOT_FOUND):
                    answer = await self._gateway.call("kv/txn", body, _Transaction, call=Call.COMMIT, deadline=deadline)
            except EtcdRefusalError:
                # The lease ended before its time: somebody revoked it. Nothing was written.
                self._leases.forget(leases)
                continue
            return Committed(answer.header.revision) if answer.succeeded else _conflict(expected, answer)
        raise StoreUnavailableError("etcd forgets leases as soon as it grants them")

    async def check(self) -> None:
        """Ask the nearest member that answers how the cluster is; it is asked first from then on.

        Raises:
            StoreUnavailableError: It takes no writes: there is no leader, or no space.
            StoreMisconfiguredError: Its members do not hold the same.
            StoreAilingError: It will soon be full.
        """
        # Only a member that is in touch with most others answers this; it is the one whose status counts.
        await self._look("kv/txn", {"success": [_range("")]}, _Transaction, call=Call.LOOK)
        status = await self._look("maintenance/status", {}, _Status, call=Call.READ)
        if any("CORRUPT" in error for error in status.errors):
            raise StoreMisconfiguredError("etcd raised the alarm CORRUPT: its members hold different values; replace the wrong one")
        if status.errors:
            raise StoreUnavailableError(f"etcd: {', '.join(status.errors)}")
        await self._check_space(status)

    async def close(self) -> None:
        """Close the connections."""
        await self._leases.aclose()
        await self._gateway.aclose()

    async def _read(self, keys: Sequence[str], *, serializable: bool = False) -> dict[str, Versioned]:
        body = {"success": [_range(key, serializable=serializable) for key in keys]}
        answer = await self._look("kv/txn", body, _Transaction, call=Call.READ)
        return {key: Versioned(pair.value, pair.mod_revision) for key, pair in answer.found().items()}

    async def _check_space(self, status: _Status) -> None:
        share = status.db_size / status.db_size_quota if status.db_size_quota else 0.0
        if share >= COMPACTED and not await self._is_compacted():
            raise StoreAilingError("etcd keeps every revision since its first: start it with --auto-compaction-retention, then defragment")
        if share >= NEARLY_FULL:
            raise StoreAilingError(f"etcd has used {share:.0%} of --quota-backend-bytes: defragment it or raise the quota")

    async def _is_compacted(self) -> bool:
        try:
            await self._look("kv/range", {"key": _encoded(""), "revision": "1"}, _Range, call=Call.READ, but=OUT_OF_RANGE)
        except EtcdRefusalError:
            return True
        return False

    async def _look(self, path: str, body: Mapping[str, Any], answer: type[Answer], *, call: Call, but: int | None = None) -> Answer:
        with _translated(but=but):
            return await self._gateway.call(path, body, answer, call=call, deadline=self._gateway.deadline())


def _encoded(key: str) -> bytes:
    # The name stands alone in its prefix: etcd takes no empty key.
    return (PREFIX + key).encode()


def _range(key: str, *, keys_only: bool = False, serializable: bool = False) -> Mapping[str, Any]:
    return {"request_range": {"key": _encoded(key), "keys_only": keys_only, "serializable": serializable}}


def _compare(key: str, version: int) -> Mapping[str, Any]:
    # The revision of a key that does not exist is 0, which is what ABSENT is.
    return {"key": _encoded(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(version)}


def _operation(write: Write, leases: Mapping[int, int]) -> Mapping[str, Any]:
    if write.value is None:
        return {"request_delete_range": {"key": _encoded(write.key)}}
    lease = str(leases[write.retention_seconds]) if write.retention_seconds else "0"
    return {"request_put": {"key": _encoded(write.key), "value": write.value, "lease": lease}}


def _conflict(expected: Mapping[str, int], answer: _Transaction) -> Conflict:
    found = answer.found()
    return Conflict(tuple(key for key, version in expected.items() if version != (found[key].mod_revision if key in found else 0)))


@contextmanager
def _translated(*, but: int | None = None) -> Iterator[None]:
    try:
        yield
    except EtcdRefusalError as ex:
        if ex.code == but:
            raise
        raise StoreUnavailableError(f"etcd refused: {ex}") from None
