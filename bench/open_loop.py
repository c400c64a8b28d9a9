"""An open-loop HTTP client: requests go out when they are due, whatever became of those before; used by `overload.py`.

Latency is counted from the moment when a request was due, not from when it could be sent (no coordinated omission). Whoever has no answer
in `PATIENCE_SECONDS` leaves: its connection is closed, as a customer's would be.
"""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

PATIENCE_SECONDS = 4.0
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_QUEUE = re.compile(rb"server-timing: queue;dur=([0-9.]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer: the field that names it, and how many requests a second it has."""

    name: str
    tier: str
    authorization: str
    rate: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request that was due `at` seconds after the begin; status 0: none in time."""

    tenant: Tenant
    at: float
    status: int
    seconds: float
    queue_seconds: float


class Connection(asyncio.Protocol):
    """Keeps alive, one request at a time."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] | None = None
        self._received = b""
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._received, self._size = b"", 0
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._size and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            self._size = end + 4 + (int(length[1]) if length else 0)
        if self._size and len(self._received) >= self._size and self.answer and not self.answer.done():
            self.answer.set_result(self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_exception(ConnectionError("closed"))


class OpenLoop:
    """Asks the servers on `ports`, each request one of them by chance, as behind a balancer."""

    def __init__(self, ports: Sequence[int], path: str) -> None:
        self._ports = ports
        self._path = path
        self._idle: dict[int, list[Connection]] = {port: [] for port in ports}
        self._answers: list[Answer] = []

    async def run(self, tenants: Sequence[Tenant], seconds: float, seed: int) -> list[Answer]:
        """Poisson arrivals of each tenant for so long; everything that came of them."""
        chance = random.Random(seed)
        due = sorted((at, number) for number, tenant in enumerate(tenants) for at in _arrivals(chance, tenant.rate, seconds))
        self._answers = []
        begin, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for at, number in due:
            if (early := begin + at - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            task = asyncio.create_task(self._ask(tenants[number], chance.choice(self._ports), begin, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        return self._answers

    def close(self) -> None:
        """Close every connection."""
        for connections in self._idle.values():
            for connection in connections:
                connection.transport.close()

    async def _ask(self, tenant: Tenant, port: int, begin: float, at: float) -> None:
        request = f"GET {self._path} HTTP/1.1\r\nHost: bench\r\nAuthorization: {tenant.authorization}\r\n\r\n".encode()
        connection: Connection | None = None
        answer = b""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS - (time.perf_counter() - begin - at)):
                connection = await self._connect(port)
                answer = await connection.ask(request)
                self._idle[port].append(connection)
        except (OSError, TimeoutError):
            if connection:
                connection.transport.close()
        queue = _QUEUE.search(answer)
        status, seconds = int(answer[9:12] or 0), time.perf_counter() - begin - at
        self._answers.append(Answer(tenant, at, status, seconds, float(queue[1]) / 1000 if queue else 0.0))

    async def _connect(self, port: int) -> Connection:
        while self._idle[port]:
            connection = self._idle[port].pop()
            if not connection.transport.is_closing():
                return connection
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        return connection


def _arrivals(chance: random.Random, rate: float, seconds: float) -> list[float]:
    times, at = [], chance.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += chance.expovariate(rate)
    return times
