"""What one run of a handler read and wants to write; made by `middleware.py`, used by resources as `req.context.unit_of_work`."""

from collections.abc import Mapping, Sequence

from tidegate.store.base import ABSENT, Committed, Conflict, ConsistentStore, Versioned, Write


class UnitOfWork:
    """Reads from `store` and remembers the versions; stages writes until `commit`.

    Args:
        store: Where data is.
        prefetched: What has been read of it already; guards the commit once the handler has read it, too.
    """

    def __init__(self, store: ConsistentStore, prefetched: Mapping[str, Versioned | None]) -> None:
        self._store = store
        self._prefetched = prefetched
        self._expected: dict[str, int] = {}
        self._read: dict[str, bytes | None] = {}
        self._writes: dict[str, bytes | None] = {}

    async def read(self, key: str) -> bytes | None:
        """The value of `key`, None if absent; own staged writes show, and a second read gives the first one's value.

        Raises:
            StoreUnavailableError: The store did not answer.
        """
        if key in self._writes:
            return self._writes[key]
        if key not in self._read:
            found = self._prefetched[key] if key in self._prefetched else (await self._store.read([key])).get(key)
            # Of two reads at once the first counts: a later version must not vouch for a value that was given already.
            self._expected.setdefault(key, found.version if found else ABSENT)
            self._read.setdefault(key, found.value if found else None)
        return self._read[key]

    def write(self, key: str, value: bytes) -> None:
        """Set `key` with the commit; read it first unless a lost update of it does no harm."""
        self._writes[key] = value

    def delete(self, key: str) -> None:
        """Delete `key` with the commit."""
        self._writes[key] = None

    def discard_writes(self) -> None:
        """Forget the writes; what was read still guards the commit."""
        self._writes.clear()

    async def commit(self, expected: Mapping[str, int], record: Sequence[Write]) -> Committed | Conflict:
        """Carry out the writes and `record` together, if the keys of `expected` and all that were read have not changed.

        Raises:
            StoreUnavailableError: The store did not answer; whether the commit took effect is unknown.
        """
        writes = [Write(key, value) for key, value in self._writes.items()]
        return await self._store.commit({**self._expected, **expected}, [*writes, *record])
