"""etcd's JSON gateway, signed in; called by `etcd.py` and `leases.py`."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import msgspec

from tidegate.connections.etcd import EtcdServers
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.members import Call, EtcdRefusalError, Members

Answer = TypeVar("Answer")

OUTDATED_TOKENS = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")
"""It expired, was lost by a member that started again, or is older than a change of rights."""


class _Authenticated(msgspec.Struct):
    token: str


class Gateway:
    """A client of a cluster; connects with the first call.

    Args:
        servers: Where the members are and who we are.
        timeout_seconds: Of a call.
    """

    def __init__(self, servers: EtcdServers, *, timeout_seconds: float) -> None:
        self._members = Members(servers, timeout_seconds=timeout_seconds)
        self._user, self._password = servers.user, servers.password
        self._token = ""
        self._login: asyncio.Task[str] | None = None
        self.timeout_seconds = timeout_seconds

    def deadline(self) -> float:
        """When a call that begins now must have ended, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def call(self, path: str, body: Mapping[str, Any], answer: type[Answer], *, call: Call, deadline: float) -> Answer:
        """What etcd answers to `body` at `path`.

        Raises:
            EtcdRefusalError: It refused, and nothing was done.
            StoreRefusedError: It refuses such a request for ever, and nothing was done.
            StoreUnavailableError: Nobody knows whether it was done.
        """
        token = await self._signed_in(deadline)
        try:
            return await self._members.ask(path, body, answer, call=call, deadline=deadline, token=token)
        except EtcdRefusalError as ex:
            if not token or str(ex) not in OUTDATED_TOKENS:
                raise
        # Refused unseen, so that even a commit may be sent again.
        if self._token == token:
            self._token = ""
        token = await self._signed_in(deadline)
        return await self._members.ask(path, body, answer, call=call, deadline=deadline, token=token)

    async def aclose(self) -> None:
        """Close the connections."""
        if self._login:
            self._login.cancel()
            await asyncio.wait([self._login])
        await self._members.aclose()

    async def _signed_in(self, deadline: float) -> str:
        if not self._user or self._token:
            return self._token
        if self._login is None or self._login.done():
            # One for all who wait: a login costs etcd a tenth of a second of CPU.
            self._login = begin(self._sign_in())
        return await shared(self._login, deadline)

    async def _sign_in(self) -> str:
        body = {"name": self._user, "password": self._password}
        try:
            found = await self._members.ask("auth/authenticate", body, _Authenticated, call=Call.READ, deadline=self.deadline(), token="")
        except EtcdRefusalError as ex:
            raise StoreUnavailableError(f"etcd refuses the login of {self._user}: {ex}") from None
        self._token = found.token
        return self._token


def begin(work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    """A task for `shared`; that all who wait may have given up when it fails is no error."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def shared(task: asyncio.Task[Answer], deadline: float) -> Answer:
    """The result of a task that others wait for too.

    Raises:
        StoreUnavailableError: Not by `deadline`.
    """
    try:
        async with asyncio.timeout_at(deadline):
            # Unlike `shield`, which since Python 3.14 logs the failure of a task once for each that no longer waits.
            await asyncio.wait((task,))
            return task.result()
    except TimeoutError:
        raise StoreUnavailableError("etcd did not answer in time") from None
