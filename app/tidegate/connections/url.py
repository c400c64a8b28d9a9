"""URLs of a Redis, checked once at start; read by settings, followed by `connect.py`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import parse_url
from redis.exceptions import RedisError

_SEVERAL = re.compile(
    r"(?P<scheme>rediss?)\+(?P<kind>sentinel|cluster)://(?:(?P<user>[^/?#@]*)@)?(?P<members>[^/?#@]+)/?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)
_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}
_SENTINEL_LOGIN = {"sentinel_username": "username", "sentinel_password": "password"}
_UNUSABLE = (ValueError, TypeError, LookupError, AttributeError, RedisError)
_ONE_SERVER = "redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH"
_SEVERAL_SERVERS = "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE or redis+cluster://HOST:PORT,HOST:PORT (rediss+: over TLS)"


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisUrl(str):
    """A URL of one server, of which redis-py can make a connection.

    Raises:
        ValueError: It cannot, or would take another server or database than the one meant. No part of it is quoted: it may hold a password.
    """

    __slots__ = ()
    expected = _ONE_SERVER

    def __new__(cls, text: str) -> Self:
        """Check `text`."""
        if not cls._is_sound(text):
            raise ValueError(f"Expected {cls.expected}, its parts percent-encoded")
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        # It may hold a password, and settings are shown whole.
        return f"{type(self).__name__}(...)"

    @classmethod
    def _is_sound(cls, text: str) -> bool:
        try:
            url = urlsplit(text)
            is_sound = not url.hostname and url.path if url.scheme == "unix" else url.hostname and re.fullmatch("(/[0-9]*)?", url.path)
            connection_options(text)
        except _UNUSABLE:
            return False
        return bool(is_sound)


class OptionalUrl(RedisUrl):
    """A URL of one server, or nothing."""

    __slots__ = ()
    expected = f"{_ONE_SERVER}, or nothing"

    @classmethod
    def _is_sound(cls, text: str) -> bool:
        return not text or super()._is_sound(text)


class RegionUrl(RedisUrl):
    """A URL of a region's Redis: one server, or `SeveralServers`."""

    __slots__ = ()
    expected = f"{_ONE_SERVER}, {_SEVERAL_SERVERS}"

    @classmethod
    def _is_sound(cls, text: str) -> bool:
        if not text.startswith(("redis+", "rediss+")):
            return super()._is_sound(text)
        try:
            SeveralServers.read(text)
        except _UNUSABLE:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SeveralServers:
    """What a URL of Sentinels or of a Cluster says.

    Args:
        kind: sentinel or cluster.
        members: Sentinels, or any nodes of the Cluster.
        options: For a connection to a server that holds data.
        sentinel_options: For one to a Sentinel.
        service: Name of the primary among the Sentinels.
    """

    kind: str
    members: tuple[Address, ...]
    options: Mapping[str, Any] = field(repr=False)
    sentinel_options: Mapping[str, Any] = field(repr=False)
    service: str

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a URL.

        Raises:
            Exception: Of any class in `_UNUSABLE`: it is none.
        """
        found = _SEVERAL.fullmatch(text)
        if found is None:
            raise ValueError("no URL of Sentinels or of a Cluster")
        kind, login = found["kind"], f"{found['user']}@" if found["user"] else ""
        service, _, database = found["path"].partition("/")
        query = dict(parse_qsl(found["query"] or "", keep_blank_values=True, strict_parsing=bool(found["query"])))
        sentinel_login = {name: query.pop(option) for option, name in _SENTINEL_LOGIN.items() if kind == "sentinel" and option in query}
        if kind == "sentinel" and not (service and re.fullmatch("[0-9]*", database)):
            raise ValueError("Sentinels are asked for a service, which has numbered databases")
        if kind == "cluster" and (found["path"] or query.get("db", "0") != "0"):
            raise ValueError("a Cluster has one database")
        members = tuple(read_address(member, _DEFAULT_PORTS[kind]) for member in found["members"].split(","))
        options = connection_options(f"{found['scheme']}://{login}{members[0]}/{database}?{urlencode(query)}")
        is_secured = options.pop("connection_class", None) is not None
        data = {name: value for name, value in options.items() if name not in ("host", "port")} | ({"ssl": True} if is_secured else {})
        common = {name: value for name, value in data.items() if name.startswith("ssl")}
        return cls(kind, members, data, common | sentinel_login, unquote(service))


def connection_options(url: str) -> dict[str, Any]:
    """What a URL of one server says to redis-py; it would meet a wrong option only at the first call, so this makes a connection of it.

    Raises:
        Exception: Of any class in `_UNUSABLE`: it cannot be used.
    """
    pool = ConnectionPool.from_url(url)
    pool.connection_class(**pool.connection_kwargs)
    encoder = pool.get_encoder()  # type: ignore[no-untyped-call]
    encoder.encode("")
    if encoder.decode_responses:
        raise ValueError("replies are read as bytes")
    return dict(parse_url(url))


def read_address(text: str, default_port: int) -> Address:
    """The address in `HOST`, `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        ValueError: There is none.
    """
    url = urlsplit(f"//{text}")
    if not url.hostname or url.netloc != text:
        raise ValueError("no host")
    return Address(url.hostname, url.port or default_port)
