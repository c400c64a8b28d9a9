"""The pseudonyms under which identities appear in Redis and in logs; called by `middleware.py`."""

import base64
import hmac


class Pseudonyms:
    """Makes pseudonyms that only a holder of `key` (>= 32 bytes, the same in all regions) can tie to an identity (VEC-1)."""

    def __init__(self, key: bytes) -> None:
        # Keyed once: setting the key up costs as much as the digest itself.
        self._keyed = hmac.new(key, b"v1|", "sha256")

    def tid(self, partition: str) -> str:
        """The pseudonym of a partition of `Principal.partition`: 128 bits in 22 base64url characters."""
        mac = self._keyed.copy()
        mac.update(partition.encode())
        return base64.urlsafe_b64encode(mac.digest()[:16]).rstrip(b"=").decode()
