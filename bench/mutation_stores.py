"""The stores that mutations are measured on, and what each does by itself; run by `mutations.py`."""

import asyncio
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cores import BESIDE
from bench.stage import tree_microseconds
from bench.valkey import DURABLE, valkey
from redis import Redis
from tests.etcd_cluster import EtcdCluster
from tests.kube.tools import tool

from tidegate.connections.etcd import StoreUrl
from tidegate.idempotency.journal import TOMBSTONE_SECONDS, Journal, result_key
from tidegate.idempotency.record import Result
from tidegate.idempotency.sealing import Sealer
from tidegate.store.base import Write
from tidegate.store.connect import open_store

RESULTS = 5_000
CALLERS = (1, 64)


@dataclass(frozen=True, slots=True)
class Store:
    """A running store: its URL, its CPU time in microseconds and the calls it has answered so far, and the bytes that it holds."""

    name: str
    url: str
    cpu: Callable[[], float]
    calls: Callable[[], int]
    held_bytes: Callable[[], int]
    version: str


@contextmanager
def running_valkey(folder: Path) -> Iterator[Store]:
    """A Valkey that syncs each commit."""
    folder.mkdir()
    with valkey(folder, launcher=BESIDE, over_tcp=True, options=DURABLE) as url, Redis.from_url(url) as redis:
        process = int(redis.info("server")["process_id"])

        def calls() -> int:
            stats = redis.info("commandstats")
            return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("mget", "evalsha"))

        def held_bytes() -> int:
            return int(redis.info("memory")["used_memory_dataset"])

        yield Store("valkey", url, lambda: tree_microseconds(process), calls, held_bytes, str(redis.info("server").get("valkey_version")))


@contextmanager
def running_etcd(folder: Path) -> Iterator[Store]:
    """Three members that sync each commit."""
    binary = tool("etcd")
    with EtcdCluster(binary, folder, "--unsafe-no-fsync=false", "--auto-compaction-retention", "1m") as cluster:
        processes = [member.program.process.pid for member in cluster.members if member.program.process]
        for process in processes:
            subprocess.run(["taskset", "-acp", BESIDE[-1], str(process)], check=True, capture_output=True)

        def cpu() -> float:
            return sum(map(tree_microseconds, processes))

        def calls() -> int:
            return sum(_answered(member.port) for member in cluster.members)

        def held_bytes() -> int:
            return int(cluster.members[0].call("maintenance/status")["dbSizeInUse"])

        yield Store("etcd", cluster.url, cpu, calls, held_bytes, _etcd_version(cluster.members[0].port))


def _answered(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith("grpc_server_handled_total") and 'method="Txn"' in line))


def _etcd_version(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/version", timeout=5) as answer:
        return str(json.loads(answer.read())["etcdserver"])


def report_store(store: Store) -> None:
    """What the store itself does: commits a second without any of us before it, and what a record takes."""
    for callers in CALLERS:
        print(f"{store.name} alone, {callers} callers: {asyncio.run(commits_per_second(store.url, callers)):,.0f} commits/s")
    before = store.held_bytes()
    asyncio.run(commit_results(store.url))
    held = (store.held_bytes() - before) / RESULTS
    print(f"{store.name}: the result of a purchase and its tombstone take {held:,.0f} B")


async def commit_results(url: str) -> None:
    """So many results as the platform stores them."""
    store, sealer = open_store(StoreUrl(url), timeout_seconds=10), Sealer(b"r" * 32)
    journal = Journal(store, sealer)
    for number in range(RESULTS):
        body = json.dumps({"id": str(number), "amount": 100, "balance": number * 100}).encode()
        headers = {"content-type": "application/json", "location": f"/v1/credits/purchases/{number}"}
        result = Result(fingerprint=os.urandom(32), status=201, headers=headers, body=body)
        name = os.urandom(32).hex()
        writes = journal.finish(name, result, fencing=0, retention_seconds=86_400, tombstone_seconds=TOMBSTONE_SECONDS)
        await store.commit({result_key(name): 0}, writes)
    await store.close()


async def commits_per_second(url: str, callers: int, seconds: float = 3.0) -> float:
    """Of values of 200 bytes, each to a key of its own."""
    store = open_store(StoreUrl(url), timeout_seconds=10)
    done, until = 0, time.monotonic() + seconds

    async def commit(caller: int) -> None:
        nonlocal done
        while time.monotonic() < until:
            await store.commit({f"floor/{caller}/{done}": 0}, [Write(f"floor/{caller}/{done}", b"x" * 200, 90_000)])
            done += 1

    await asyncio.gather(*(commit(caller) for caller in range(callers)))
    await store.close()
    return done / seconds
