"""The members of an etcd cluster, and which of them is asked, over HTTP; called by `gateway.py`."""

import asyncio
import io
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any, TypeVar

import aiohttp
import msgspec

from tidegate.connections.etcd import EtcdServers
from tidegate.store.errors import StoreRefusedError, StoreUnavailableError

Answer = TypeVar("Answer")

MOST_CONNECTIONS = 64
"""To each member; more calls at a time wait for one."""
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
"""gRPC codes by which the cluster says that it did nothing, and would do nothing at another member; after others nobody knows.
One lies: the commit that fills the quota is carried out and refused, so whoever is refused one looks again."""
ABOUT_THE_REQUEST = ("request is too large", "larger than max", "too many operations", "duplicate key", "key is not provided")


class Call(Enum):
    """When a call goes on to the next member."""

    COMMIT = auto()
    """Only if it provably was not sent: it could be done twice."""
    READ = auto()
    """Whatever happened."""
    LOOK = auto()
    """As a read, but beginning with the nearest, whatever that one did before."""


class EtcdRefusalError(Exception):
    """etcd said no, and did nothing, unless that filled its quota; `code` is gRPC's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _DoubtfulError(Exception):
    """A member answered, but not what became of the call."""


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


class Members:
    """Connections to all members; the one that answered last is asked first.

    Args:
        servers: Where they are.
        timeout_seconds: Of a whole call; members share it, so that one which hangs leaves time for the next.
    """

    def __init__(self, servers: EtcdServers, *, timeout_seconds: float) -> None:
        scheme = "https" if servers.tls else "http"
        self._urls = [f"{scheme}://{member}/v3/" for member in servers.members]
        self._tls = servers.tls
        self._preferred = 0
        self._session: aiohttp.ClientSession | None = None
        # The first has a second turn: its connection may have been closed as the call went out.
        self._turns = len(self._urls) + 1
        self._share_seconds = timeout_seconds / self._turns

    async def ask(self, path: str, body: Mapping[str, Any], answer: type[Answer], *, call: Call, deadline: float, token: str) -> Answer:
        """What the first that answers says.

        Raises:
            EtcdRefusalError: It refused, and nothing was done.
            StoreRefusedError: It refuses such a request for ever, and nothing was done.
            StoreUnavailableError: Nobody knows whether it was done.
        """
        content, failures = msgspec.json.encode(body), []
        for place in self._in_order(call):
            try:
                async with asyncio.timeout_at(self._until(call, deadline)):
                    found = await self._post(self._urls[place] + path, content, answer, token)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as ex:
                failures.append(f"member {place + 1} cannot be reached ({type(ex).__name__})")
            except (aiohttp.ClientError, _DoubtfulError, TimeoutError, OSError) as ex:
                failures.append(f"member {place + 1} did not answer ({str(ex) if isinstance(ex, _DoubtfulError) else type(ex).__name__})")
                if call is Call.COMMIT:
                    self._leave(place)
                    break
            else:
                self._preferred = place
                return found
            self._leave(place)
        raise StoreUnavailableError(f"etcd: {', '.join(failures)}")

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _post(self, url: str, content: bytes, answer: type[Answer], token: str) -> Answer:
        # aiohttp itself never sends a POST again.
        data = content if len(content) < LARGE_BYTES else io.BytesIO(content)
        async with self._connected().post(url, data=data, headers={"Authorization": token} if token else None) as response:
            text = await response.read()
        try:
            if response.status == 200:
                # 64-bit integers come as strings.
                return msgspec.json.decode(text, type=answer, strict=False)
            failure = msgspec.json.decode(text, type=_Failure)
        except msgspec.DecodeError:
            raise _DoubtfulError(f"HTTP status {response.status} and no answer of etcd's") from None
        raise _error(failure)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=MOST_CONNECTIONS, ssl=self._tls or True)
            timeout = aiohttp.ClientTimeout(connect=self._share_seconds)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _until(self, call: Call, deadline: float) -> float:
        return deadline if call is Call.COMMIT else min(deadline, asyncio.get_running_loop().time() + self._share_seconds)

    def _in_order(self, call: Call) -> Iterator[int]:
        first = 0 if call is Call.LOOK else self._preferred
        return ((first + number) % len(self._urls) for number in range(self._turns))

    def _leave(self, place: int) -> None:
        if self._preferred == place:
            self._preferred = (place + 1) % len(self._urls)


def _error(failure: _Failure) -> Exception:
    if failure.code not in REFUSALS:
        return _DoubtfulError(failure.message)
    if any(reason in failure.message for reason in ABOUT_THE_REQUEST):
        return StoreRefusedError(failure.message)
    return EtcdRefusalError(failure.code, failure.message)
