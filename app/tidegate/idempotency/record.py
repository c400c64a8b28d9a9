"""The stored result of a mutation and its bytes in the store; called by `middleware.py`."""

from collections.abc import Mapping

import msgspec

from tidegate.idempotency.errors import InvalidRecordError

STORED_HEADERS = ("content-type", "content-language", "location", "content-location", "etag", "last-modified", "link")
"""Fields that belong to the result; all others belong to one response and are not replayed (IDEM-8)."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A mutation's result.

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

    def encode(self) -> bytes:
        """The bytes to store."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, stored: bytes) -> "Record":
        """The record in `stored`.

        Raises:
            InvalidRecordError: `encode` did not write it.
        """
        try:
            return msgspec.msgpack.decode(stored, type=cls)
        except msgspec.MsgspecError as ex:
            raise InvalidRecordError(f"stored result: {ex}") from ex


def stored_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The part of a response's `headers` (names in lower case) that is stored."""
    return {name: headers[name] for name in STORED_HEADERS if name in headers}
