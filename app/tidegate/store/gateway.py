"""Calls of etcd's JSON gateway, at whichever member answers; called by `etcd.py` and `leases.py`."""

import asyncio
import io
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec

from tidegate.connections.etcd import EtcdServers
from tidegate.store.errors import StoreRefusedError, StoreUnavailableError

Answer = TypeVar("Answer")
Resend = Literal["unless sent", "always"]
"""When a call may go on to the next member: only if it provably was not sent (a commit), or whatever happened (a read)."""

MOST_CONNECTIONS = 64
"""To each member; more calls at a time wait for one."""

LARGE_BYTES = 1 << 20
"""From here on aiohttp wants a body in pieces, so that others come through meanwhile."""

LARGE_BYTES = 1 << 20
"""From here on aiohttp wants a body in pieces, so that others come through meanwhile."""

INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNAUTHENTICATED = (
    3,
    5,
    7,
    8,
    9,
    11,
    16,
)
REFUSALS = frozenset(
    {INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNAUTHENTICATED}
)
"""gRPC codes by which a whole cluster says that it did nothing and would do nothing the next time; after others nobody knows."""
OUTDATED_TOKENS = ("etcdserver: invalid auth token", "etcdserver: revision of auth store is old")
ABOUT_THE_REQUEST = ("request is too large", "larger than max", "too many operations", "duplicate key", "key is not provided")


class EtcdRefusalError(Exception):
    """etcd said no, and did nothing; `code` is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _DoubtfulError(Exception):
    """A member answered, but not what became of the call."""


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Authenticated(msgspec.Struct):
    token: str


class Gateway:
    """A client of a cluster; connects with the first call.

    Args:
        servers: Where the members are and who we are.
        timeout_seconds: Of a call whose caller gives no deadline: a login, a new lease.
    """

    def __init__(self, servers: EtcdServers, *, timeout_seconds: float) -> None:
        scheme = "https" if servers.tls else "http"
        self._members = [f"{scheme}://{member}/v3/" for member in servers.members]
        self._servers = servers
        self._preferred = 0
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._login: asyncio.Task[str] | None = None
        self.timeout_seconds = timeout_seconds
        # The first has a second turn: its connection may have been closed as the call went out.
        self._turns = len(self._members) + 1
        self._share_seconds = timeout_seconds / self._turns

    def deadline(self) -> float:
        """When a call that begins now must have ended, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def call(self, path: str, body: Mapping[str, Any], kind: type[Answer], *, deadline: float, resend: Resend) -> Answer:
        """What etcd answers to `body` at `path`.

        Raises:
            EtcdRefusalError: It refused, and nothing was done.
            StoreRefusedError: It refuses such a request for ever, and nothing was done.
            StoreUnavailableError: Nobody knows whether it was done.
        """
        token = await self._signed_in(deadline)
        try:
            return await self._call(path, body, kind, deadline=deadline, resend=resend, token=token)
        except EtcdRefusalError as ex:
            if not token or str(ex) not in OUTDATED_TOKENS:
                raise
        # Expired, or lost by a member that started again: the call was refused unseen.
        self._token = "" if self._token == token else self._token
        token = await self._signed_in(deadline)
        return await self._call(path, body, kind, deadline=deadline, resend=resend, token=token)

    def prefer_first(self) -> None:
        """Ask the nearest member first again, whatever it did before."""
        self._preferred = 0

    async def aclose(self) -> None:
        """Close the connections."""
        if self._login:
            self._login.cancel()
            await asyncio.wait([self._login])
        if self._session:
            await self._session.close()

    async def _call(self, path: str, body: Mapping[str, Any], kind: type[Answer], *, deadline: float, resend: Resend, token: str) -> Answer:
        content, failures = msgspec.json.encode(body), []
        for place in self._in_order():
            now = asyncio.get_running_loop().time()
            until = deadline if resend == "unless sent" else min(deadline, now + self._share_seconds)
            try:
                async with asyncio.timeout_at(until):
                    answer = await self._ask(self._members[place] + path, content, kind, token)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as ex:
                failures.append(f"member {place + 1} cannot be reached ({type(ex).__name__})")
            except (aiohttp.ClientError, _DoubtfulError, TimeoutError, OSError) as ex:
                failures.append(f"member {place + 1} did not answer ({_reason(ex)})")
                if resend == "unless sent":
                    self._leave(place)
                    break
            else:
                self._preferred = place
                return answer
            self._leave(place)
        raise StoreUnavailableError(f"etcd: {', '.join(failures)}")

    async def _ask(self, url: str, content: bytes, kind: type[Answer], token: str) -> Answer:
        # aiohttp itself never sends a POST again.
        data = content if len(content) < LARGE_BYTES else io.BytesIO(content)
        async with self._connected().post(url, data=data, headers={"Authorization": token} if token else None) as response:
            text = await response.read()
        try:
            if response.status == 200:
                # 64-bit integers come as strings.
                return msgspec.json.decode(text, type=kind, strict=False)
            failure = msgspec.json.decode(text, type=_Failure)
        except msgspec.DecodeError:
            raise _DoubtfulError(f"HTTP status {response.status} and no answer of etcd's") from None
        if failure.code not in REFUSALS:
            raise _DoubtfulError(failure.message)
        if any(reason in failure.message for reason in ABOUT_THE_REQUEST):
            raise StoreRefusedError(failure.message)
        raise EtcdRefusalError(failure.code, failure.message)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=MOST_CONNECTIONS, ssl=self._servers.tls or True)
            # The whole call has a deadline; a member that cannot be connected leaves time for the next.
            timeout = aiohttp.ClientTimeout(connect=self._share_seconds)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _in_order(self) -> Iterator[int]:
        first = self._preferred
        return ((first + number) % len(self._members) for number in range(self._turns))

    def _leave(self, place: int) -> None:
        if self._preferred == place:
            self._preferred = (place + 1) % len(self._members)

    async def _signed_in(self, deadline: float) -> str:
        if not self._servers.user or self._token:
            return self._token
        if self._login is None or self._login.done():
            # One for all who wait: a login costs etcd a tenth of a second of CPU.
            self._login = asyncio.create_task(self._sign_in())
        return await shared(self._login, deadline)

    async def _sign_in(self) -> str:
        body = {"name": self._servers.user, "password": self._servers.password}
        try:
            answer = await self._call("auth/authenticate", body, _Authenticated, deadline=self.deadline(), resend="always", token="")
        except EtcdRefusalError as ex:
            raise StoreUnavailableError(f"etcd refuses the login of {self._servers.user}: {ex}") from None
        self._token = answer.token
        return self._token


async def shared(task: asyncio.Task[Answer], deadline: float) -> Answer:
    """The result of a task that others wait for too.

    Raises:
        StoreUnavailableError: Not by `deadline`.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(task)
    except TimeoutError:
        raise StoreUnavailableError("etcd did not answer in time") from None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _DoubtfulError) else type(error).__name__
