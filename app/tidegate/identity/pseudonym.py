"""The pseudonyms under which identities appear in Redis and in logs; called by `middleware.py`."""

import base64
import hmac
from collections.abc import Callable
from functools import lru_cache

from tidegate.contract.keys import sharded

MEMO_PARTITIONS = 8192
"""Remembered by a worker, as many as tokens: working a pseudonym out costs 2 to 3 microseconds of every request."""


class Pseudonyms:
    """Makes pseudonyms that only a holder of a key (>= 32 bytes, the same in all regions) can tie to an identity (VEC-1).

    Args:
        keys: The key under which usage is counted and, while one key replaces another, the other of both (VEC-3).
        shards: Over how many usage is spread; with more than one a pseudonym begins with its own.
        shard_key: Key of that choice. It stays when the others are replaced, so that all names of an identity are of one shard.
    """

    def __init__(self, *keys: bytes, shards: int = 1, shard_key: bytes = b"") -> None:
        # Keyed once: setting a key up costs as much as the digest itself.
        self._keyed = [hmac.new(key, b"v1|", "sha256") for key in keys]
        self._shards = shards
        self._shard_keyed = hmac.new(shard_key, b"shard|v1|", "sha256")
        self.tids: Callable[[str], tuple[str, ...]] = lru_cache(MEMO_PARTITIONS)(self._tids)
        """The pseudonyms of a partition of `Principal.partition`, one a key: 128 bits in 22 base64url characters."""

    def _tids(self, partition: str) -> tuple[str, ...]:
        tids = tuple(_tid(keyed.copy(), partition) for keyed in self._keyed)
        if self._shards == 1:
            return tids
        shard = self._shard(partition)
        return tuple(sharded(tid, shard) for tid in tids)

    def _shard(self, partition: str) -> int:
        mac = self._shard_keyed.copy()
        mac.update(partition.encode())
        return int.from_bytes(mac.digest()[:8]) % self._shards


def _tid(mac: hmac.HMAC, partition: str) -> str:
    mac.update(partition.encode())
    return base64.urlsafe_b64encode(mac.digest()[:16]).rstrip(b"=").decode()
