"""Who acts of several operators, against the API of Leases as a server with versions keeps it, in memory."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tidegate_operator import lease as module
from tidegate_operator.kubernetes_api import ApiError
from tidegate_operator.lease import Lease


class Ended(BaseException):
    """Instead of the end of the process."""


class Server:
    """Keeps one Lease, and refuses a write on top of another's."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.version = 0
        self.is_away = False
        self.delay = asyncio.Event()
        self.delay.set()

    async def read(self, version: str, path: str) -> dict[str, Any]:
        await self._answer()
        if self.spec is None:
            raise ApiError(404, "not found")
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(self.spec)}

    async def create(self, version: str, resource: str, body: Mapping[str, Any]) -> dict[str, Any]:
        await self._answer()
        if self.spec is not None:
            raise ApiError(409, "it is there already")
        return self._keep(body["spec"])

    async def merge(self, version: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        await self._answer()
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ApiError(409, "it has changed")
        return self._keep((self.spec or {}) | body["spec"])

    async def _answer(self) -> None:
        await self.delay.wait()
        if self.is_away:
            raise ApiError(0, "no connection")

    def _keep(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.spec = {name: value for name, value in spec.items() if value is not None}
        return {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(module, "RENEWAL_SECONDS", 0.7)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(module.os, "_exit", end)
    return Server()


def lease(server: Server) -> Lease:
    return Lease(server, "operator")  # type: ignore[arg-type]  # the part of its API that a lease needs


class Operator:
    """One that notes whether it acts."""

    def __init__(self, server: Server) -> None:
        self.lease = lease(server)
        self.acts = asyncio.Event()
        self.task = asyncio.create_task(self.lease.hold(self._work))

    async def _work(self) -> None:
        self.acts.set()
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_of_two_that_reach_for_it_at_once_one_gets_it(server: Server):
    for _ in range(5):
        server.spec = None
        tries = await asyncio.gather(*(lease(server)._try() for _ in range(2)))

        assert sorted(tries) == [False, True]


async def test_the_next_acts_once_the_holder_is_gone_and_not_before(server: Server):
    async with asyncio.timeout(10):
        first = Operator(server)
        await first.acts.wait()
        second = Operator(server)
        await asyncio.sleep(1.5)  # longer than a lease that nobody renews
        assert not second.acts.is_set()

        await first.stop()
        await second.acts.wait()
        await second.stop()

    assert server.spec
    assert server.spec["leaseTransitions"] == 1


async def test_the_next_acts_at_the_end_of_a_lease_and_not_at_some_look_after_it(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 1_000)
    assert await lease(server)._try()

    async with asyncio.timeout(10):
        second = Operator(server)
        await second.acts.wait()
        await second.stop()


async def test_a_lease_that_is_released_is_taken_at_once(server: Server, monkeypatch: pytest.MonkeyPatch):
    async with asyncio.timeout(10):
        monkeypatch.setattr(module, "LEASE_SECONDS", 1_000)
        first = Operator(server)
        await first.acts.wait()
        second = Operator(server)
        await asyncio.sleep(0.1)

        await first.stop()
        await first.lease.release()
        await second.acts.wait()
        await second.stop()


async def test_what_another_holds_is_not_released(server: Server):
    first, second = lease(server), lease(server)
    assert await first._try()
    assert server.spec
    server.spec["holderIdentity"] = second._identity

    await first.release()

    assert server.spec["holderIdentity"] == second._identity


@pytest.mark.parametrize("is_silent", [False, True])
async def test_a_holder_outlives_a_short_loss_of_the_api_server_and_ends_in_a_long_one(server: Server, is_silent: bool):
    async with asyncio.timeout(10):
        operator = Operator(server)
        await operator.acts.wait()

        def lose(is_away: bool) -> None:
            server.is_away = is_away and not is_silent
            (server.delay.clear if is_away and is_silent else server.delay.set)()

        lose(True)
        await asyncio.sleep(0.3)
        lose(False)
        await asyncio.sleep(0.7)
        operator.lease.check()
        assert not operator.task.done()

        lose(True)
        with pytest.raises(BaseExceptionGroup) as group:
            await operator.task
    assert group.group_contains(Ended)


async def test_a_holder_ends_where_it_sees_another_and_before_it_writes_too_late(server: Server):
    held = lease(server)
    held.check()
    assert await held._try()
    held.check()
    assert server.spec
    server.spec["holderIdentity"] = "another"

    with pytest.raises(Ended):
        await held._try()
    await asyncio.sleep(0.75)
    with pytest.raises(Ended):
        held.check()
