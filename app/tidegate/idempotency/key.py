"""Idempotency keys: from the header field to the name of a mutation and the id of its effect; called by `middleware.py`."""

import base64
import hmac
import re
from collections.abc import Sequence
from functools import lru_cache

from tidegate.idempotency.errors import KeyInvalidError, KeyMissingError
from tidegate.idempotency.fingerprint import join
from tidegate.identity.principal import Principal

MEMO_CALLERS = 8192
"""Remembered by a worker, as many as tokens."""
MINIMUM_LENGTH = 16
MAXIMUM_LENGTH = 255

# RFC 9651: an Item whose bare item is a String; parameters are checked for syntax and ignored.
_STRING = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_NUMBER = r"-?[0-9]{1,12}\.[0-9]{1,3}|-?[0-9]{1,15}"
_TOKEN = r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"  # noqa: S105 - the grammar's name for it
_OTHER = r'\?[01]|@-?[0-9]{1,15}|:[A-Za-z0-9+/]*={0,2}:|%"(?:[\x20\x21\x23\x24\x26-\x7e]|%[0-9a-f]{2})*"'
_PARAMETER = rf"; *[a-z*][a-z0-9_.*-]*(?:=(?:{_STRING}|{_NUMBER}|{_TOKEN}|{_OTHER}))?"
_ITEM = re.compile(rf" *({_STRING})(?:{_PARAMETER})* *")
# What clients of other platforms send: one word of characters that mean nothing in a structured field or a list.
_BARE = re.compile(rf"[A-Za-z0-9._~-]{{{MINIMUM_LENGTH},{MAXIMUM_LENGTH}}}")
_ESCAPED = re.compile(r'\\(["\\])')


def parse_key(lines: Sequence[str], *, bare: bool = False) -> str:
    """The key in the values of all `Idempotency-Key` field lines; with `bare` also one without quotes, as if it had them.

    Raises:
        KeyMissingError: There is no line.
        KeyInvalidError: There are several (IDEM-3), or the one is not a quoted string of 16..255 characters (IDEM-2).
    """
    if not lines:
        raise KeyMissingError("a mutation needs an Idempotency-Key")
    if len(lines) == 1 and bare and _BARE.fullmatch(lines[0].strip(" ")):
        return lines[0].strip(" ")
    item = _ITEM.fullmatch(lines[0]) if len(lines) == 1 else None
    if item is None:
        raise KeyInvalidError('Idempotency-Key must be one quoted string, as in "0197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5"')
    key = _ESCAPED.sub(r"\1", item[1][1:-1])
    if not MINIMUM_LENGTH <= len(key) <= MAXIMUM_LENGTH:
        raise KeyInvalidError(f"Idempotency-Key has {len(key)} characters, {MINIMUM_LENGTH}..{MAXIMUM_LENGTH} are allowed")
    return key


def storage_name(secret: bytes, principal: Principal, key: str) -> str:
    """The name under which `principal`'s mutation `key` is stored: a keyed hash, so that the raw key is at rest nowhere (IDEM-4).

    128 bits in 22 base64url characters: each is stored up to three times.
    """
    caller = _caller(principal.issuer, principal.tenant, principal.client_id, principal.subject)
    digest = hmac.digest(secret, caller + join((key.encode(),)), "sha256")
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode()


def names_of(secret: bytes) -> bytes:
    """Tells this secret of `storage_name` from others, and nothing more of it."""
    return hmac.digest(secret, b"names", "sha256")[:8].hex().encode()


@lru_cache(MEMO_CALLERS)
def _caller(*names: str) -> bytes:
    return join(name.encode() for name in names)


def effect_id(secret: bytes, name: str, method: str, route: str) -> str:
    """The id by which the outside world knows the effect of the mutation `name` on `route` (a URI template): 32 hexadecimal digits."""
    return hmac.digest(secret, join(part.encode() for part in ("effect", name, method, route)), "sha256").hex()[:32]
