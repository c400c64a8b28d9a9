"""A customer, who orders from either region, under one key as often as it takes; used by all tests of this directory."""

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.chaos.stage import CLIENT_SECONDS, PURCHASES, Region, Stage

SETTLING_SECONDS = 30.0
"""In which every outcome is found: a lease on etcd takes up to 7 s to end, a worker 3 s to start."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is sent, again and again; `path` says what is bought."""

    path: str
    amount: int
    key: str = field(default_factory=lambda: str(uuid.uuid4()))


class Customer:
    """A tenant of its own, with one connection to nobody: each request makes one, as a client does after a loss."""

    def __init__(self, stage: Stage, *, timeout_seconds: float = CLIENT_SECONDS) -> None:
        self._stage, self._timeout_seconds = stage, timeout_seconds
        self._tenant = f"tenant-{uuid.uuid4()}"

    def order(self, path: str) -> Order:
        """A new one, of an amount that nobody else orders."""
        return Order(path, self._stage.amount())

    async def get(self, region: Region, path: str) -> httpx.Response:
        return await self._send(region, "GET", path)

    async def send(self, region: Region, order: Order) -> httpx.Response | None:
        """The answer to one attempt; None if the connection was lost or nothing came in time."""
        try:
            return await self._send(
                region, "POST", order.path, json={"amount": order.amount}, headers={"Idempotency-Key": f'"{order.key}"'}
            )
        except httpx.TransportError:
            return None

    async def settle(self, order: Order, *regions: Region) -> httpx.Response:
        """The final answer: asks for it until it comes, at one region after the other."""
        deadline = time.monotonic() + SETTLING_SECONDS
        while True:
            for region in regions:
                answer = await self.send(region, order)
                if answer is not None and answer.status_code not in (409, 503):
                    return answer
                assert answer is None or int(answer.headers["Retry-After"]) >= 1
                assert time.monotonic() < deadline, f"{order} is not settled, but {answer and answer.text}"
                await asyncio.sleep(0.2)

    async def effects(self, order: Order) -> list[int]:
        """How often each effect of the order was had: entries of the ledger, if this customer ordered nothing else, or charges."""
        if order.path != PURCHASES:
            return await asyncio.to_thread(self._stage.provider.taken, order.amount)
        account = await self.account()
        assert account["balance"] == order.amount * account["entries"]
        return [account["entries"]] if account["entries"] else []

    async def account(self) -> dict[str, Any]:
        """The balance and the number of entries, as the second region has them."""
        found: dict[str, Any] = (await self.get(self._stage.regions[1], "/v1/credits")).raise_for_status().json()
        return found

    async def _send(self, region: Region, method: str, path: str, headers: dict[str, str] | None = None, **content: Any) -> httpx.Response:
        token = self._stage.issuer.mint("pro", tenant=self._tenant, now=time.time() + region.ahead_seconds)
        # There is no TLS here, and getting ready for it takes longer than all else.
        async with httpx.AsyncClient(timeout=self._timeout_seconds, verify=False) as client:
            return await client.request(
                method, region.url + path, headers={"Authorization": f"Bearer {token}", **(headers or {})}, **content
            )
