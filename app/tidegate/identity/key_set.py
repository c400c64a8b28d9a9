"""The issuer's public keys, read from a mounted JWKS file and read again when it changes; called by `tokens.py` and the readiness check."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog
from jwt import PyJWK, PyJWTError

from tidegate.identity import strict_json
from tidegate.identity.compact import KEY_ID_PATTERN

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

CHECK_SECONDS = 1.0
"""Shortest time between two looks at the file: no request pays more than that for a rotation."""

_KINDS = {"RS256": ("RSA", None), "PS256": ("RSA", None), "ES256": ("EC", "P-256"), "EdDSA": ("OKP", "Ed25519")}


class KeySet:
    """The keys by key id. A file that is missing or bad changes nothing: the last good keys stay, and the log says so once a change.

    Args:
        path: JWKS file; each key states `kid` and `alg`.
        clock: Monotonic seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._checked_at = clock()
        self._keys: Mapping[str, PyJWK] = MappingProxyType({})
        self._seen: tuple[int, ...] | None = None
        self._read()

    @property
    def is_empty(self) -> bool:
        """Whether no key has been read yet, so that no token can be verified."""
        return not self.current()

    def current(self) -> Mapping[str, PyJWK]:
        """The keys by key id; the same object until they change."""
        now = self._clock()
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            if self._stamp() != self._seen:
                self._read()
        return self._keys

    def _read(self) -> None:
        # The stamp is older than what is read after it, so a change in between is seen at the next look.
        self._seen = self._stamp()
        try:
            keys = parse(self._path.read_bytes())
        except (OSError, ValueError) as ex:
            log.error("token keys not read, the last good ones stay", path=str(self._path), kept=len(self._keys), reason=str(ex))
            return
        self._keys = MappingProxyType(keys)
        log.info("token keys read", path=str(self._path), key_ids=sorted(keys))

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a third of the cost of Path.stat, on the event loop
        except OSError:
            return ()
        # The change time, not that of the data: it moves when permissions are mended, too.
        return status.st_ctime_ns, status.st_ino, status.st_size


def parse(data: bytes) -> dict[str, PyJWK]:
    """The usable keys of a JWKS by key id; a key that may not verify tokens is left out, with a line in the log.

    Raises:
        ValueError: It is no JWKS, it has no usable key, or two keys share an id; without any of the data.
    """
    members = strict_json.loads(data).get("keys")
    if not isinstance(members, list):
        raise ValueError("has no list `keys`")  # noqa: TRY004 - the data is wrong, not the caller
    keys: dict[str, PyJWK] = {}
    for index, member in enumerate(members):
        try:
            key = _key(member)
        except ValueError as ex:
            log.warning("token key left out", index=index, reason=str(ex))
            continue
        if key.key_id in keys:
            raise ValueError(f"keys[{index}] has the kid of an earlier key")
        keys[str(key.key_id)] = key
    if not keys:
        raise ValueError("has no usable key")
    return keys


def _key(member: Any) -> PyJWK:
    if not isinstance(member, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - the data is wrong, not the caller
    if not isinstance(member.get("kid"), str) or not KEY_ID_PATTERN.fullmatch(member["kid"]):
        raise ValueError("kid is not 1..128 safe characters")
    kind = _KINDS.get(str(member.get("alg")))
    if kind is None:
        raise ValueError(f"alg is not one of {', '.join(_KINDS)}")
    if (member.get("kty"), member.get("crv")) != kind:
        raise ValueError("kty and crv do not fit alg")
    operations = member.get("key_ops", ["verify"])
    if member.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("use or key_ops forbid verifying")
    if "d" in member:
        raise ValueError("is a private key")
    return _load(member)


def _load(member: dict[str, Any]) -> PyJWK:
    try:
        key = PyJWK(member)
    except PyJWTError as ex:
        # PyJWT's text would quote the key.
        raise ValueError("is not a well-formed key") from ex
    if weakness := key.Algorithm.check_key_length(key.key):
        raise ValueError(weakness)
    return key
