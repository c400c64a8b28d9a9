"""Names what is kept in a lane and encrypts it, so that its Redis knows neither customers nor contents; called by `lane.py`."""

import hmac
import os
from base64 import urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_ID_BYTES = 4
NONCE_BYTES = 12
HEADER_BYTES = KEY_ID_BYTES + NONCE_BYTES
"""In front of every sealed entry; no two have the same."""
NAME_BYTES = 16


class LaneKeys:
    """The keys of one lane, derived from mounted secrets and the lane's identity, so that no lane can read another's memory.

    Names come from a secret that is never replaced, or an entry could not be removed while another one replaces it. Entries are sealed
    with AES-256-GCM under the first of `secrets` and opened under any. Sealed: key id (4 bytes), nonce (12), ciphertext with its tag (16).
    The name is authenticated, so what was moved to another tenant, path or variant does not open. Each name has a key of its own, so the
    number of entries under one secret is not bounded by random nonces (NIST SP 800-38D, 8.3).

    Args:
        lane: Identity of the lane: its tier's name and uid, or that of the shared one.
        name_secret: For names.
        secrets: For sealing; without any, names are all that can be made.
    """

    def __init__(self, lane: str, name_secret: bytes, *secrets: bytes) -> None:
        own = f"cache lane|{lane}".encode()
        self._names = hmac.digest(name_secret, own, "sha256")
        derived = [hmac.digest(secret, own, "sha256") for secret in secrets]
        ids = [hmac.digest(secret, b"id", "sha256")[:KEY_ID_BYTES] for secret in derived]
        self._secrets = dict(zip(ids, derived, strict=True))
        self._key_id = next(iter(ids), b"")

    def name(self, *parts: object) -> bytes:
        """16 bytes that stand for `parts` and do not hold them; equal for equal ones alone."""
        return hmac.digest(self._names, repr(parts).encode(), "sha256")[:NAME_BYTES]

    def text_name(self, *parts: object) -> str:
        """`name` in 22 characters."""
        return urlsafe_b64encode(self.name(*parts)).rstrip(b"=").decode()

    def seal(self, plain: bytes, name: bytes) -> bytes:
        """The bytes to keep under `name`."""
        header = self._key_id + os.urandom(NONCE_BYTES)
        return header + self._cipher(self._key_id, name).encrypt(header[KEY_ID_BYTES:], plain, name)

    def open(self, sealed: bytes, name: bytes) -> bytes | None:
        """What was sealed for `name`; None if that was under a secret that is not here, for another name, or was changed since."""
        key_id = sealed[:KEY_ID_BYTES]
        if key_id not in self._secrets or len(sealed) < HEADER_BYTES:
            return None
        try:
            return self._cipher(key_id, name).decrypt(sealed[KEY_ID_BYTES:HEADER_BYTES], sealed[HEADER_BYTES:], name)
        except InvalidTag:
            return None

    def _cipher(self, key_id: bytes, name: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._secrets[key_id], name, "sha256"))
