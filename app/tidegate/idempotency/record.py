"""What is known of a mutation, and its bytes before they are sealed; called by `journal.py`, `effect.py` and `middleware.py`."""

import hashlib
from collections.abc import Mapping

import msgspec

from tidegate.idempotency.errors import InvalidRecordError

STORED_HEADERS = (
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    "content-location",
    "location",
    "etag",
    "last-modified",
    "link",
    "allow",
)
"""Fields that belong to the result; all others belong to one response and are not replayed (IDEM-8)."""

NOT_FINAL = frozenset({401, 408, 412, 425, 428, 429})
"""Refusals that ask for the same request again, and so must not be all that it ever gets; a precondition is no part of the fingerprint."""


class Result(msgspec.Struct, frozen=True, kw_only=True, tag=1, array_like=True):
    """How a mutation ended.

    Args:
        fingerprint: Of the request that caused it.
        status: HTTP status.
        headers: The stored fields, names in lower case.
        body: Exactly the bytes that were sent.
    """

    fingerprint: bytes
    status: int
    headers: dict[str, str]
    body: bytes


class Claim(msgspec.Struct, frozen=True, kw_only=True, tag=2, array_like=True):
    """Somebody set out to have an effect outside of the store (IDEM-11). Live while the lease beside it is; then its outcome is unknown.

    Args:
        fingerprint: Of the request.
        effect_id: Under which the outside world knows the effect.
        owner: Who: a random word of one run of one request.
        fencing: Grows with each owner of one mutation; the first is 1.
        started_at: Seconds since the epoch by the owner's clock; for people, nothing is decided by it.
        is_absent: An operator found that there was no effect: the next owner need not ask.
    """

    fingerprint: bytes
    effect_id: str
    owner: str
    fencing: int
    started_at: float
    is_absent: bool = False


class Tombstone(msgspec.Struct, frozen=True, kw_only=True, tag=3, array_like=True):
    """A result that is kept no longer, so that a late retry is refused instead of charged again (IDEM-22).

    Args:
        fingerprint: Of the request.
        outcome: `digest` of the result, encoded.
    """

    fingerprint: bytes
    outcome: bytes


Record = Result | Claim | Tombstone


def encode(record: Record) -> bytes:
    """MessagePack of `record`."""
    return msgspec.msgpack.encode(record)


def digest(encoded: bytes) -> bytes:
    """Tells an encoded record from others, without its content: 16 bytes of SHA-256."""
    return hashlib.sha256(encoded).digest()[:16]


def decode(stored: bytes) -> Record:
    """The record in `stored`.

    Raises:
        InvalidRecordError: `encode` did not write it.
    """
    try:
        record: Record = _DECODER.decode(stored)
    except msgspec.MsgspecError as ex:
        raise InvalidRecordError(f"stored result: {ex}") from ex
    return record


_DECODER = msgspec.msgpack.Decoder(Record)


def stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The part of a response's `headers` (names in lower case) that is stored."""
    return {name: headers[name] for name in STORED_HEADERS if name in headers}
