"""Lets nobody write to a store that is not the one that it was (IDEM-19); wrapped around an adapter by `application.py`.

A store that was emptied, or set up anew, knows of no result: every retry would be done a second time. So a store carries a mark, each
region's Redis remembers the mark of the store that it served with, and every commit is on condition that the mark has not changed.

A store that was emptied begins its versions anew, and then the mark of another may have the version that this one's had. So beside
each mark is a witness, a key of its random name, and a commit is on condition of both.

Nor does a worker find any result that looks under names of its own: so the store also tells which idempotency key its names are made with.

And none writes to a store that may lose what it acknowledges (IDEM-18), from the check that finds it so until one finds it mended.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from tidegate.store.base import ABSENT, Committed, Conflict, ConsistentStore, Versioned, Write
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.incarnation import Incarnation, Verdict, judge
from tidegate.store.regional import RegionalMemory

KEY = "incarnation"
"""Where the mark is in the store."""
NAMES = f"{KEY}/names"
"""What tells the secret under which mutations are named in the store."""
ANOTHER = "the consistent store is another than a moment ago; nothing was done"
REMEDY = "bring that back, or accept the loss with `tidegate adopt-store` (docs/store.md)"


class TrustedStore:
    """A `ConsistentStore` that reads from `store`, and writes to it while it is the one that `memory` remembers.

    Args:
        store: Where values are.
        memory: Of the region.
        names: Tells the secret under which this worker names mutations; one of another secret writes nothing to the same store.
    """

    def __init__(self, store: ConsistentStore, memory: RegionalMemory, names: bytes) -> None:
        self._store = store
        self._memory = memory
        self._names = names
        # What this process has served with: it stays known when the region's Redis is emptied too.
        self._own: Incarnation | None = None
        self._condition: dict[str, int] | None = None

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, Versioned]:
        """The values of `keys`, whatever store it is."""
        return await self._store.read(keys, or_stale=or_stale)

    async def commit(self, expected: Mapping[str, int], writes: Sequence[Write]) -> Committed | Conflict:
        """Carry out all `writes` or none, and none in another store.

        Raises:
            StoreUnavailableError: It did not answer, is another, or may lose what it acknowledges.
        """
        condition = self._condition or await self._condition_of_trusted()
        result = await self._store.commit({**expected, **condition}, writes)
        if isinstance(result, Conflict) and not condition.keys().isdisjoint(result.keys):
            self._condition = None
            raise StoreUnavailableError(ANOTHER)
        return result

    async def check(self) -> None:
        """Raise StoreMisconfiguredError if the store may lose what it acknowledged, or has lost it; from then on it gets no commit."""
        try:
            condition = await self.verify()
            await self._store.check()
        except StoreMisconfiguredError:
            # Not left to readiness: where no worker is ready, an edge may ask all of them.
            self._condition = None
            raise
        self._condition = condition

    async def close(self) -> None:
        """Release the connections to the store."""
        await self._store.close()

    async def verify(self) -> dict[str, int]:
        """On what a commit is conditional: the versions of the mark and of its witness.

        Raises:
            StoreMisconfiguredError: The store is another, or its mutations are named otherwise.
            StoreUnavailableError: It did not answer, or nobody can tell.
        """
        # In this order: what a region remembers was in the store before, so a mark that is being made is never missed.
        recalled = await self._recall()
        stored, version = await _marked(self._store)
        # Of two that were accepted equally often, the one that this process knows from its own work.
        remembered = max(filter(None, (self._own, recalled)), key=lambda one: one.adoptions, default=None)
        verdict = judge(stored, remembered)
        if verdict is Verdict.CREATE:
            # Another worker may be quicker: whichever mark is there then is the store's.
            await self._store.commit({KEY: ABSENT}, _mark(Incarnation.new()))
            stored, version = await _marked(self._store)
            verdict = judge(stored, None)
        if verdict is Verdict.DISPUTE and remembered:
            await self._store.commit({KEY: version}, [Write(KEY, remembered.disputed().encode())])
        if stored is None or verdict is not Verdict.TRUST:
            raise StoreMisconfiguredError(_reason(stored))
        if recalled != stored:
            await self._memory.remember(stored)
        condition = await self._witnessed(stored, version)
        self._own = stored
        return condition

    async def _witnessed(self, stored: Incarnation, version: int) -> dict[str, int]:
        beside = {_witness(stored): b"", NAMES: self._names}
        found = await self._store.read([KEY, *beside])
        if missing := beside.keys() - found.keys():
            # A mark that is new, or of before there were witnesses and names.
            writes = [Write(key, beside[key]) for key in missing]
            await self._store.commit({KEY: version, **dict.fromkeys(missing, ABSENT)}, writes)
            found = await self._store.read([KEY, *beside])
        # Looked at once more, as all must be of one moment.
        if beside.keys() - found.keys() or KEY not in found or found[KEY].value != stored.encode():
            raise StoreUnavailableError(ANOTHER)
        if found[NAMES].value != self._names:
            raise StoreMisconfiguredError(f"the idempotency key is another than that of the consistent store's results: {REMEDY}")
        return {key: found[key].version for key in (KEY, _witness(stored))}

    async def _condition_of_trusted(self) -> dict[str, int]:
        try:
            condition = await self.verify()
            with suppress(StoreAilingError):
                await self._store.check()
        except StoreMisconfiguredError as ex:
            raise StoreUnavailableError(str(ex)) from ex
        self._condition = condition
        return condition

    async def _recall(self) -> Incarnation | None:
        try:
            return await self._memory.recall()
        except StoreUnavailableError:
            if self._own is None:
                raise
            return self._own


async def adopt(store: ConsistentStore, memories: Sequence[RegionalMemory]) -> Incarnation:
    """Accept `store` as it is, which every region will follow: the mark that it carries from now on.

    Raises:
        StoreUnavailableError: The store or a region did not answer, or somebody else was quicker.
    """
    stored, version = await _marked(store)
    known = [one for one in (stored, *[await memory.recall() for memory in memories]) if one]
    adopted = Incarnation.new(1 + max((one.adoptions for one in known), default=0))
    # Whoever is first from now on says how mutations are named.
    if isinstance(await store.commit({KEY: version}, [*_mark(adopted), Write(NAMES, None)]), Conflict):
        raise StoreUnavailableError("the mark of the store has just changed; look again")
    for memory in memories:
        await memory.remember(adopted)
    return adopted


def _mark(incarnation: Incarnation) -> list[Write]:
    return [Write(KEY, incarnation.encode()), Write(_witness(incarnation), b"")]


def _witness(incarnation: Incarnation) -> str:
    return f"{KEY}/{incarnation.name}"


async def _marked(store: ConsistentStore) -> tuple[Incarnation | None, int]:
    found = (await store.read([KEY])).get(KEY)
    return (Incarnation.decode(found.value), found.version) if found else (None, ABSENT)


def _reason(stored: Incarnation | None) -> str:
    what = "is empty" if stored is None else "was set up anew" if stored.is_disputed else "is another"
    return f"the consistent store {what}, but this region has served with one that knew of results: {REMEDY}"
