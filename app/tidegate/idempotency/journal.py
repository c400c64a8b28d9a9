"""Where the store keeps what is known of each mutation; called by `middleware.py`, `effect.py` and `commands/mutations.py`."""

from collections.abc import Mapping, Sequence

import msgspec

from tidegate.idempotency.errors import InvalidRecordError
from tidegate.idempotency.record import Claim, Record, Result, Tombstone, decode, digest, encode
from tidegate.idempotency.sealing import Sealer
from tidegate.store.base import ABSENT, Committed, Conflict, ConsistentStore, Versioned, Write

RETENTION_MARGIN_SECONDS = 3_600
"""Kept this much longer than promised: a step of the store's clock drops no result early (IDEM-17)."""
TOMBSTONE_SECONDS = 30 * 86_400
"""For resources where money moves: a client that wakes up after a month is the last that may be charged again."""
LEASE_SECONDS = 15
"""How long a claim outlives its last renewal; counted by the store, as the clock of a worker may be wrong (IDEM-17)."""


class Found(msgspec.Struct, frozen=True):
    """What the store knows of a mutation.

    Args:
        record: Its result or claim, else its tombstone; None: nothing.
        version: Of the result or claim; `ABSENT` without one.
        is_live: The claim's owner has renewed its lease.
        prefetched: What was asked for with it; None for a key that is absent.
    """

    record: Record | None = None
    version: int = ABSENT
    is_live: bool = False
    prefetched: Mapping[str, Versioned | None] = msgspec.field(default_factory=dict)


def result_key(name: str) -> str:
    """The key of the result or claim of the mutation `name` (`key.storage_name`)."""
    return f"result/{name}"


def lease_key(name: str) -> str:
    """The key that exists while a claim's owner renews it."""
    return f"lease/{name}"


def tombstone_key(name: str) -> str:
    """The key that outlives the result."""
    return f"tombstone/{name}"


def unfinished(name: str, version: int) -> Mapping[str, int]:
    """On what beginning or ending a mutation is conditional: its claim has `version`, and no result came and went since the look-up."""
    return {result_key(name): version, tombstone_key(name): ABSENT}


class Journal:
    """Results, claims and tombstones in `store`, sealed by `sealer`. Every method raises `StoreUnavailableError` without the store.

    Args:
        store: Where they are.
        sealer: Whoever has its secrets can read them.
        lease_seconds: How long a claim outlives its last renewal.
    """

    def __init__(self, store: ConsistentStore, sealer: Sealer, *, lease_seconds: int = LEASE_SECONDS) -> None:
        self.store = store
        self.lease_seconds = lease_seconds
        self._sealer = sealer

    async def look_up(self, name: str, prefetch: Sequence[str] = ()) -> Found:
        """What is known of the mutation `name`, and the values of `prefetch`, all of one instant and in one round trip.

        Raises:
            InvalidRecordError: It cannot be read; the mutation must be refused rather than run again.
        """
        keys = result_key(name), lease_key(name), tombstone_key(name)
        values = await self.store.read((*keys, *prefetch))
        result, lease, tombstone = map(values.get, keys)
        prefetched = {key: values.get(key) for key in prefetch}
        if result is not None:
            return Found(self._open(keys[0], result.value), result.version, lease is not None, prefetched)
        return Found(self._open(keys[2], tombstone.value) if tombstone else None, prefetched=prefetched)

    def finish(self, name: str, result: Result, *, fencing: int, retention_seconds: int, tombstone_seconds: int) -> list[Write]:
        """The writes that end a mutation: its result, its tombstone if that is to outlive it, and no lease.

        Args:
            name: The mutation.
            result: Its outcome.
            fencing: Of the claim that it ends; 0 without one.
            retention_seconds: For how long at least it is replayed.
            tombstone_seconds: For how long at least after that the key cannot be used again.
        """
        key, encoded = result_key(name), encode(result)
        writes = [Write(key, self._sealer.seal(encoded, key, fencing), retention_seconds + RETENTION_MARGIN_SECONDS)]
        if fencing:
            writes.append(Write(lease_key(name), None))
        if tombstone_seconds:
            tombstone = Tombstone(fingerprint=result.fingerprint, outcome=digest(encoded))
            key = tombstone_key(name)
            kept_seconds = retention_seconds + RETENTION_MARGIN_SECONDS + tombstone_seconds
            writes.append(Write(key, self._sealer.seal(encode(tombstone), key, fencing), kept_seconds))
        return writes

    async def claim(self, name: str, claim: Claim, *, version: int) -> Committed | Conflict:
        """Set `claim` in place of what has `version`, if nobody holds the lease (B2), and hold it."""
        key = result_key(name)
        # A claim is kept until it is resolved: one that was forgotten would be taken for none (B5).
        writes = [Write(key, self._sealer.seal(encode(claim), key, claim.fencing)), Write(lease_key(name), b"1", self.lease_seconds)]
        return await self.store.commit({**unfinished(name, version), lease_key(name): ABSENT}, writes)

    async def renew(self, name: str, *, version: int) -> Committed | Conflict:
        """Hold the lease for longer, if the claim still has `version`."""
        return await self.store.commit({result_key(name): version}, [Write(lease_key(name), b"1", self.lease_seconds)])

    async def release(self, name: str, claim: Claim, *, version: int) -> Committed | Conflict:
        """Give the lease up, if `claim` still has `version`: its outcome is unknown."""
        key = result_key(name)
        # The claim is written again, so that a renewal which comes late does not revive the lease.
        writes = [Write(key, self._sealer.seal(encode(claim), key, claim.fencing)), Write(lease_key(name), None)]
        return await self.store.commit({key: version}, writes)

    async def mark_absent(self, name: str, claim: Claim, *, version: int) -> Committed | Conflict:
        """Note that `claim`, which has `version` and no live owner, had no effect."""
        key, resolved = result_key(name), msgspec.structs.replace(claim, is_absent=True)
        write = Write(key, self._sealer.seal(encode(resolved), key, claim.fencing))
        return await self.store.commit({key: version, lease_key(name): ABSENT}, [write])

    async def resolve(self, name: str, result: Result, *, fencing: int, version: int, kept_seconds: int) -> Committed | Conflict:
        """Put `result` in place of a claim that has `fencing`, `version` and no live owner."""
        end = self.finish(name, result, fencing=fencing, retention_seconds=kept_seconds, tombstone_seconds=0)
        return await self.store.commit({result_key(name): version, lease_key(name): ABSENT}, end)

    def _open(self, key: str, sealed: bytes) -> Record:
        try:
            return decode(self._sealer.open(sealed, key))
        except InvalidRecordError as ex:
            raise InvalidRecordError(f"{key[:20]}...: {ex}") from ex
