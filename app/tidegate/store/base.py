"""The port of the consistent store: versioned reads and one conditional commit; called by the idempotency room and the resources."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

ABSENT = 0
"""Expected version of a key that must not exist."""


class Versioned(msgspec.Struct, frozen=True):
    """A value and the version of the commit that wrote it; a version is never given twice, not even after a deletion."""

    value: bytes
    version: int


class Write(msgspec.Struct, frozen=True):
    """Sets `key` to `value`, or deletes it if `value` is None.

    Args:
        key: Name inside the store.
        value: New value; None deletes.
        retention_seconds: The value disappears not before this long after the commit, and on etcd up to a quarter (at most an hour) and
            a few seconds later; an election there starts its time anew. None keeps it for ever. A few different ones
            at most: etcd keeps a lease of each process for each.
    """

    key: str
    value: bytes | None
    retention_seconds: int | None = None


class Committed(msgspec.Struct, frozen=True):
    """All writes are durable; `version` is the version of every one of them."""

    version: int


class Conflict(msgspec.Struct, frozen=True):
    """Nothing was written: `keys` no longer have the expected versions."""

    keys: tuple[str, ...]


class ConsistentStore(Protocol):
    """Linearizable keys and values; every method raises StoreUnavailableError when the store cannot answer."""

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`; an absent key is missing in the answer.

        Args:
            keys: Names inside the store.
            or_stale: Where no majority answers, take what a member holds, which may be old: for reads that change nothing.
        """

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Carry out all `writes` if every key of `expected` still has its version (`ABSENT`: does not exist), else none."""

    async def check(self) -> None:
        """Raise StoreMisconfiguredError if the store may lose what it acknowledged."""

    async def close(self) -> None:
        """Release the connections."""
