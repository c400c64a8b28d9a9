"""Customers who ask without waiting for one another, on one event loop; called by the acts of the tour that need many of them."""

import asyncio
import math
import random
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector

from tidegate.local.stage import AMOUNT, PAYMENTS_PATH, expect

PATIENCE_SECONDS = 10.0
_QUEUE = re.compile(r"queue;dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks: a tier, a token of it, and how many requests there are in all."""

    tier: str
    token: str
    requests: int


@dataclass(slots=True)
class Payment:
    """A payment that was due at `due` (monotonic seconds), and what became of it: nothing yet while `ended` is infinite.

    `queue_seconds` is how long it was in the queue of its worker, as that says.
    """

    tier: str
    due: float
    ended: float = math.inf
    is_admitted: bool = False
    is_refused: bool = False
    queue_seconds: float = 0.0
    problem: str = ""


class Crowd:
    """Payments that go out when they are due, whatever became of those before, as those of customers who know nothing of one another do.

    Args:
        port: The edge that they ask.
        customers: Who they are; each has its requests at moments of chance.
        seconds: For how long payments are due.
    """

    def __init__(self, port: int, customers: Sequence[Customer], seconds: float) -> None:
        self.payments: list[Payment] = []
        """Those that were due so far."""
        self._port = port
        self._seconds = seconds
        moments = [(random.uniform(0, seconds), customer) for customer in customers for _ in range(customer.requests)]  # noqa: S311
        self._due = sorted(moments, key=lambda moment: moment[0])

    async def pay(self) -> None:
        """Send them all, and return when the last is answered."""
        async with _session(self._port) as session, asyncio.TaskGroup() as group:
            begin = time.monotonic()
            for after, customer in self._due:
                # Also where the loop is late: latency counts from when a payment was due, and each goes out for all that.
                await asyncio.sleep(begin + after - time.monotonic())
                payment = Payment(customer.tier, begin + after)
                self.payments.append(payment)
                group.create_task(_pay(session, customer, payment))


class Flood:
    """Readers who ask for the next as soon as they have the last, each time with another query.

    Args:
        port: The edge that they ask.
        tokens: One for each reader.
        paths: What they read.
    """

    def __init__(self, port: int, tokens: Sequence[str], paths: Sequence[str]) -> None:
        self.answers = 0
        """That there were so far."""
        self._port = port
        self._tokens = tokens
        self._paths = paths
        self._numbers = count()

    async def read(self) -> None:
        """Read until cancelled.

        Raises:
            ExpectationError: An answer is not 200.
        """
        async with _session(self._port) as session:
            await asyncio.gather(*(self._read(session, token) for token in self._tokens))

    async def _read(self, session: ClientSession, token: str) -> None:
        for number in self._numbers:
            path = self._paths[number % len(self._paths)]
            async with session.get(f"{path}?page={number}", headers=_bearer(token)) as response:
                text = await response.text()
            expect(response.status == 200, f"200 to GET {path}", (response.status, text))
            self.answers += 1


def _session(port: int) -> ClientSession:
    # Without a bound on connections, or the crowd would queue here and not where it is looked at.
    return ClientSession(f"http://127.0.0.1:{port}", connector=TCPConnector(limit=0), timeout=ClientTimeout(PATIENCE_SECONDS))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def _pay(session: ClientSession, customer: Customer, payment: Payment) -> None:
    headers = {**_bearer(customer.token), "Idempotency-Key": f'"demo-{secrets.token_hex(8)}"'}
    try:
        async with session.post(PAYMENTS_PATH, json={"amount": AMOUNT}, headers=headers) as response:
            await _note(payment, response)
    except (ClientError, TimeoutError) as ex:
        payment.problem = f"no answer: {ex or type(ex).__name__}"
    payment.ended = time.monotonic()


async def _note(payment: Payment, response: ClientResponse) -> None:
    payment.is_admitted = response.status == 201
    payment.is_refused = response.status == 503 and response.headers.get("Tidegate-Unavailable") == "capacity"
    queued = _QUEUE.search(response.headers.get("Server-Timing", ""))
    payment.queue_seconds = float(queued[1]) / 1000 if queued else 0.0
    if not (payment.is_admitted or payment.is_refused):
        payment.problem = f"status {response.status}: {await response.text()}"
