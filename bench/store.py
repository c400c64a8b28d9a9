"""What a read and a commit cost a worker and etcd, through the JSON gateway and through gRPC: `make bench-store`.

Each read is of two values of 1 KiB, each commit expects and writes two; etcd has three members on this machine, whose CPU is added up. The
least of alternated rounds. `grpc.aio` is called with nothing around it but the generated messages, which no client of it can do without.
A second table says for how long commits wait while etcd deletes all values of a lease.
"""

import asyncio
import base64
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import aetcd
import grpc.aio
import uvloop
from aetcd import rpc
from tests.etcd_cluster import EtcdCluster
from tests.kube.tools import tool

from tidegate.connections.etcd import EtcdServers
from tidegate.store.base import Write
from tidegate.store.etcd import EtcdStore

ROUNDS = 5
CALLS = {1: 500, 64: 5_000}
VALUE = os.urandom(1024)
LEASES = (2_000, 20_000)
TICKS = os.sysconf("SC_CLK_TCK")
names = count()


class Contender(Protocol):
    name: str

    async def read(self, keys: Sequence[str]) -> int: ...
    async def commit(self, keys: Sequence[str]) -> bool: ...
    async def close(self) -> object: ...


class Ours:
    name = "aiohttp, JSON gateway (EtcdStore)"

    def __init__(self, cluster: EtcdCluster) -> None:
        self.store = EtcdStore(EtcdServers.read(cluster.url), timeout_seconds=30)

    async def read(self, keys: Sequence[str]) -> int:
        return len(await self.store.read(keys))

    async def commit(self, keys: Sequence[str]) -> bool:
        return bool(await self.store.commit(dict.fromkeys(keys, 0), [Write(key, VALUE) for key in keys]))

    async def close(self) -> None:
        await self.store.close()


class Grpc:
    name = "grpc.aio, generated messages"

    def __init__(self, cluster: EtcdCluster) -> None:
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{cluster.members[0].port}")
        self._stub = rpc.KVStub(self._channel)

    async def read(self, keys: Sequence[str]) -> int:
        ranges = [rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode())) for key in keys]
        answer = await self._stub.Txn(rpc.TxnRequest(success=ranges), timeout=30)
        return len({pair.key: (pair.value, pair.mod_revision) for one in answer.responses for pair in one.response_range.kvs})

    async def commit(self, keys: Sequence[str]) -> bool:
        mod, equal = rpc.Compare.MOD, rpc.Compare.EQUAL
        answer = await self._stub.Txn(
            rpc.TxnRequest(
                compare=[rpc.Compare(key=key.encode(), target=mod, result=equal, mod_revision=0) for key in keys],
                success=[rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=VALUE)) for key in keys],
                failure=[rpc.RequestOp(request_range=rpc.RangeRequest(key=key.encode(), keys_only=True)) for key in keys],
            ),
            timeout=30,
        )
        return bool(answer.succeeded)

    async def close(self) -> None:
        await self._channel.close()


class Aetcd:
    name = "aetcd"

    def __init__(self, cluster: EtcdCluster) -> None:
        self._client = aetcd.Client(port=cluster.members[0].port, timeout=30)

    async def read(self, keys: Sequence[str]) -> int:
        gets = [self._client.transactions.get(key.encode()) for key in keys]
        _, found = await self._client.transaction(compare=[], success=gets, failure=[])
        return len(found)

    async def commit(self, keys: Sequence[str]) -> bool:
        of = self._client.transactions
        succeeded, _ = await self._client.transaction(
            compare=[of.mod(key.encode()) == 0 for key in keys],
            success=[of.put(key.encode(), VALUE) for key in keys],
            failure=[of.get(key.encode()) for key in keys],
        )
        return bool(succeeded)

    async def close(self) -> None:
        await self._client.close()


def servers_cpu(cluster: EtcdCluster) -> float:
    """Seconds of all members."""
    fields = [Path(f"/proc/{member.program.process.pid}/stat").read_text().rpartition(")")[2].split() for member in cluster.members]  # type: ignore[union-attr]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS


async def measured(cluster: EtcdCluster, call: Callable[[], Awaitable[object]], callers: int) -> tuple[float, float, float]:
    """Microseconds of CPU of the caller and of the members, and milliseconds of time, per call."""
    numbers, calls = iter(range(CALLS[callers])), CALLS[callers]

    async def one_after_the_other() -> None:
        for _ in numbers:
            assert await call()

    own, others, begun = time.process_time(), servers_cpu(cluster), time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(callers)))
    took = time.perf_counter() - begun
    return (time.process_time() - own) / calls * 1e6, (servers_cpu(cluster) - others) / calls * 1e6, took / calls * callers * 1e3


async def compare(cluster: EtcdCluster) -> None:
    contenders: list[Contender] = [kind(cluster) for kind in (Ours, Grpc, Aetcd)]
    best: dict[tuple[str, str, int], tuple[float, ...]] = {}
    for contender in contenders:
        await contender.commit([f"{contender.name}{part}" for part in "ab"])
    for _ in range(ROUNDS):
        for contender in contenders:
            for callers in CALLS:
                for what, call in calls_of(contender).items():
                    result = await measured(cluster, call, callers)
                    key = contender.name, what, callers
                    best[key] = tuple(map(min, result, best.get(key, result)))
    print("| client | call | callers | µs of the worker | µs of the members | ms |\n| --- | --- | --- | --- | --- | --- |")
    for (name, what, callers), (own, others, milliseconds) in best.items():
        print(f"| {name} | {what} | {callers} | {own:.0f} | {others:.0f} | {milliseconds:.2f} |")
    for contender in contenders:
        await contender.close()


def calls_of(contender: Contender) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    known = [f"{contender.name}{part}" for part in "ab"]

    async def commit() -> bool:
        number = next(names)
        return await contender.commit([f"{number}{part}" for part in "ab"])

    return {"read": lambda: contender.read(known), "commit": commit}


async def expire(cluster: EtcdCluster) -> None:
    store = EtcdStore(EtcdServers.read(cluster.url), timeout_seconds=30)
    print("\n| values of a lease | longest commit while they are deleted, ms | longest before, ms |\n| --- | --- | --- |")
    for size in LEASES:
        name = cluster.members[0].call("lease/grant", {"TTL": 3600})["ID"]
        for first in range(0, size, 100):
            puts = [{"request_put": {"key": encoded(f"{size}-{first + number}"), "lease": name}} for number in range(100)]
            await asyncio.to_thread(cluster.members[0].call, "kv/txn", {"success": puts})
        before = await longest(store, asyncio.sleep(1))
        during = await longest(store, asyncio.to_thread(cluster.members[0].call, "lease/revoke", {"ID": name}))
        print(f"| {size} | {during:.1f} | {before:.1f} |")
    await store.close()


def encoded(key: str) -> str:
    return base64.b64encode(key.encode()).decode()


async def longest(store: EtcdStore, while_: Any) -> float:
    """Milliseconds of the longest of commits that are made one after the other meanwhile."""
    task, most = asyncio.ensure_future(while_), 0.0
    while not task.done():
        begun = time.perf_counter()
        await store.commit({}, [Write("waits", b"")])
        most = max(most, time.perf_counter() - begun)
    await task
    return most * 1e3


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EtcdCluster(tool("etcd"), Path(folder)) as cluster:
        await compare(cluster)
        await expire(cluster)


if __name__ == "__main__":
    uvloop.run(main())
