"""The URL of the consistent store, etcd or one Redis, checked once at start; read by settings, followed by the wiring of the API."""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote

from tidegate.connections.url import Address, RedisUrl, read_address

_ETCD = re.compile(r"(?P<scheme>etcds?)://(?:(?P<login>[^/?#@]*)@)?(?P<members>[^/?#@]+)/?(?:\?(?P<query>[^#]*))?")
_FORM = "etcd://USER:PASSWORD@HOST:PORT,HOST:PORT or, over TLS, etcds://HOST:PORT,HOST:PORT/?ca=FILE&cert=FILE&key=FILE"
_FILES = ("ca", "cert", "key")
DEFAULT_PORT = 2379


class StoreUrl(RedisUrl):
    """A URL of the consistent store: `EtcdServers`, or one Redis.

    Raises:
        ValueError: It is neither; the text says what is wrong with it, and quotes nothing that may be a password.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Check `text`."""
        if text.startswith(("etcd:", "etcds:")):
            EtcdServers.read(text)
            return str.__new__(cls, text)
        return super().__new__(cls, text)

    expected = f"{_FORM}, {RedisUrl.expected}"

    @property
    def is_etcd(self) -> bool:
        """Whether `EtcdServers` can read it."""
        return self.startswith("etcd")


@dataclass(frozen=True, slots=True)
class EtcdServers:
    """What a URL of etcd says.

    Args:
        members: Any of the cluster's, the nearest first.
        user: Who signs in; empty: nobody does.
        password: Of the user.
        tls: Whom to trust and who to be, as the files said when they were read; None: no TLS.
    """

    members: tuple[Address, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a URL and the files that it names.

        Raises:
            ValueError: It is none, or a file cannot be used.
        """
        found = _ETCD.fullmatch(text)
        if found is None:
            raise ValueError(f"Expected {_FORM}, its parts percent-encoded")
        user, _, password = (found["login"] or "").partition(":")
        if found["login"] is not None and not (user and password):
            raise ValueError("Expected both user and password before the @, or neither")
        files = _options(found["query"] or "")
        if files and found["scheme"] == "etcd":
            raise ValueError("Expected the scheme etcds where files of TLS are named")
        try:
            members = tuple(read_address(member, DEFAULT_PORT) for member in found["members"].split(","))
        except ValueError:
            raise ValueError("Expected members as HOST:PORT,HOST:PORT") from None
        tls = _tls(files) if found["scheme"] == "etcds" else None
        return cls(members, unquote(user), unquote(password), tls)


def _options(query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        pairs = [("", "")]
    options = dict(pairs)
    if len(options) < len(pairs) or not all(name in _FILES and value for name, value in pairs):
        raise ValueError(f"Expected, after the ?, each at most once and with a path: {', '.join(_FILES)}")
    if ("cert" in options) != ("key" in options):
        raise ValueError("Expected both cert and key, or neither")
    return options


def _tls(files: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            # An encrypted key would ask the terminal for its password.
            context.load_cert_chain(files["cert"], files["key"], password=lambda: b"")
    except (OSError, ValueError) as ex:
        reason = getattr(ex, "strerror", None) or type(ex).__name__
        raise ValueError(f"Expected certificates and an unencrypted key in the files of the URL ({', '.join(files)}): {reason}") from None
    return context
