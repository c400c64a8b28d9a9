"""The pseudonyms under which identities appear in Redis and in logs; called by `middleware.py`."""

import base64
import hmac


class Pseudonyms:
    """Makes pseudonyms that only a holder of a key (>= 32 bytes, the same in all regions) can tie to an identity (VEC-1).

    Args:
        keys: The key under which usage is counted and, while one key replaces another, the other of both (VEC-3).
    """

    def __init__(self, *keys: bytes) -> None:
        # Keyed once: setting a key up costs as much as the digest itself.
        self._keyed = [hmac.new(key, b"v1|", "sha256") for key in keys]

    def tids(self, partition: str) -> tuple[str, ...]:
        """The pseudonyms of a partition of `Principal.partition`, one a key: 128 bits in 22 base64url characters."""
        return tuple(_tid(keyed.copy(), partition) for keyed in self._keyed)


def _tid(mac: hmac.HMAC, partition: str) -> str:
    mac.update(partition.encode())
    return base64.urlsafe_b64encode(mac.digest()[:16]).rstrip(b"=").decode()
