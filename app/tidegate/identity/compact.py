"""The strict reader of a token's text and header, in front of any library; called by `tokens.py`.

It takes three canonical base64url segments and nothing else: PyJWT would take padding too, and so one token in many spellings (TOK-3).
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from tidegate.identity import strict_json
from tidegate.identity.errors import InvalidTokenError

MAXIMUM_CHARACTERS = 8192
ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
TYPES = ("at+jwt", "application/at+jwt")
KEY_ID_PATTERN = re.compile(r"[A-Za-z0-9._:=~-]{1,128}")

_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A well-formed token that nobody has verified: `payload` must not be believed yet."""

    algorithm: str
    key_id: str
    payload: bytes


def parse(token: str) -> CompactToken:
    """Split a token and check its header. `jku`, `jwk`, `x5u`, `x5c` in it are ignored: keys come from the configured set alone (TOK-2).

    Raises:
        InvalidTokenError: It is not the compact form of a signed access token.
    """
    if len(token) > MAXIMUM_CHARACTERS:
        raise InvalidTokenError(f"longer than {MAXIMUM_CHARACTERS} characters")
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        raise InvalidTokenError("not three base64url segments without padding")
    header, payload, _ = (_decode(segment) for segment in shape.groups())
    return _read_header(header, payload)


def _decode(segment: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except binascii.Error as ex:
        raise InvalidTokenError("a segment is not base64url") from ex
    # Unused low bits of the last character would give one signature several spellings.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != segment.encode():
        raise InvalidTokenError("a segment is not canonical base64url")
    return data


def _read_header(data: bytes, payload: bytes) -> CompactToken:
    try:
        header = strict_json.loads(data)
    except ValueError as ex:
        raise InvalidTokenError(f"the header {ex}") from ex
    for name in ("crit", "zip"):
        if name in header:
            raise InvalidTokenError(f"the header has {name}")
    if _text(header, "typ").lower() not in TYPES:
        raise InvalidTokenError("typ is not at+jwt")
    algorithm, key_id = _text(header, "alg"), _text(header, "kid")
    if algorithm not in ALGORITHMS:
        raise InvalidTokenError(f"alg is not one of {', '.join(ALGORITHMS)}")
    if not KEY_ID_PATTERN.fullmatch(key_id):
        raise InvalidTokenError("kid is not 1..128 safe characters")
    return CompactToken(algorithm, key_id, payload)


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str):
        raise InvalidTokenError(f"{name} is missing or not a string")
    return value
