"""Seals what is stored of a mutation, since it holds customers' data (IDEM-23); called by `journal.py`."""

import hmac
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tidegate.idempotency.errors import InvalidRecordError

FORMAT = b"\x01"
KEY_ID_BYTES = 4
FENCING_BYTES = 4
NONCE_BYTES = 12
MEMO_KEYS = 256
HEADER_BYTES = len(FORMAT) + KEY_ID_BYTES + FENCING_BYTES + NONCE_BYTES


class Sealer:
    """AES-256-GCM under the first of `secrets` (>= 32 bytes each); opens what any of them sealed, so that one can replace the other.

    Sealed: format (1 byte), key id (4), fencing number (4), nonce (12), ciphertext with its tag (16). The name under which it is stored and
    all that stands before the ciphertext are authenticated: bytes that were moved to another name do not open. Each mutation (the last
    part of a name) has a key of its own, so the number of messages under one secret is not bounded by random nonces (NIST SP 800-38D, 8.3).
    """

    def __init__(self, *secrets: bytes) -> None:
        self._secrets = {hmac.digest(secret, b"id", "sha256")[:KEY_ID_BYTES]: secret for secret in reversed(secrets)}
        self._key_id = hmac.digest(secrets[0], b"id", "sha256")[:KEY_ID_BYTES]
        # A mutation seals its result and its tombstone, and may have opened its claim.
        self._cipher = lru_cache(MEMO_KEYS)(self._derive)

    def seal(self, plain: bytes, name: str, fencing: int) -> bytes:
        """The bytes to store under `name`."""
        header = FORMAT + self._key_id + fencing.to_bytes(FENCING_BYTES, "big") + os.urandom(NONCE_BYTES)
        return header + self._cipher(self._key_id, _mutation(name)).encrypt(header[-NONCE_BYTES:], plain, header + name.encode())

    def open(self, sealed: bytes, name: str) -> bytes:
        """What was sealed for `name`.

        Raises:
            InvalidRecordError: Under a secret that is not here, for another name, or changed since.
        """
        header, key_id = sealed[:HEADER_BYTES], sealed[1 : 1 + KEY_ID_BYTES]
        if len(header) < HEADER_BYTES or header[:1] != FORMAT:
            raise InvalidRecordError("stored result: not in the format of this version")
        if key_id not in self._secrets:
            raise InvalidRecordError(f"stored result: sealed under the result key {key_id.hex()}, which this worker does not have")
        try:
            return self._cipher(key_id, _mutation(name)).decrypt(header[-NONCE_BYTES:], sealed[HEADER_BYTES:], header + name.encode())
        except InvalidTag:
            raise InvalidRecordError("stored result: changed since it was sealed, or moved here from another name") from None

    def _derive(self, key_id: bytes, mutation: str) -> AESGCM:
        return AESGCM(hmac.digest(self._secrets[key_id], b"result|" + mutation.encode(), "sha256"))


def _mutation(name: str) -> str:
    return name.rpartition("/")[2]
