"""Who may change what the store knows of a mutation: each step is refused when another was quicker; on a real Valkey."""

import pytest

from tidegate.idempotency.journal import Journal, lease_key
from tidegate.idempotency.record import Claim, Result
from tidegate.idempotency.sealing import Sealer
from tidegate.store.base import ABSENT, Committed, Conflict, Write
from tidegate.store.redis import RedisStore

NAME = "n" * 22
RESULT = Result(fingerprint=b"f" * 32, status=201, headers={}, body=b"paid")


def claim(fencing: int) -> Claim:
    return Claim(fingerprint=b"f" * 32, effect_id="e" * 32, owner="o" * 16, fencing=fencing, started_at=0.0)


@pytest.fixture
def journal(store: RedisStore) -> Journal:
    return Journal(store, Sealer(b"r" * 32))


async def taken(journal: Journal, fencing: int, version: int) -> int:
    outcome = await journal.claim(NAME, claim(fencing), version=version)
    assert isinstance(outcome, Committed)
    return outcome.version


async def end_lease(journal: Journal) -> None:
    await journal.store.commit({}, [Write(lease_key(NAME), None)])


async def test_a_result_that_came_after_the_look_up_is_not_overwritten_by_a_claim(journal: Journal) -> None:
    """B2: whoever looked up an orphan, and was slow."""
    seen = await taken(journal, 1, ABSENT)
    await journal.store.commit({}, journal.finish(NAME, RESULT, fencing=1, retention_seconds=60, tombstone_seconds=0))

    assert isinstance(await journal.claim(NAME, claim(2), version=seen), Conflict)
    assert isinstance(await journal.claim(NAME, claim(1), version=ABSENT), Conflict)
    assert (await journal.look_up(NAME)).record == RESULT


async def test_a_claim_whose_owner_has_renewed_it_since_the_look_up_is_not_taken_over(journal: Journal) -> None:
    seen = await taken(journal, 1, ABSENT)
    await end_lease(journal)
    await journal.renew(NAME, version=seen)

    assert isinstance(await journal.claim(NAME, claim(2), version=seen), Conflict)


async def test_a_late_owner_neither_renews_nor_gives_up_the_lease_of_the_next(journal: Journal) -> None:
    """IDEM-11, W5; B3: a lock that is freed without a look at whose it is."""
    late = await taken(journal, 1, ABSENT)
    await end_lease(journal)
    await taken(journal, 2, late)

    assert isinstance(await journal.release(NAME, claim(1), version=late), Conflict)
    assert (await journal.look_up(NAME)).is_live
    await end_lease(journal)
    assert isinstance(await journal.renew(NAME, version=late), Conflict)
    assert not (await journal.look_up(NAME)).is_live


@pytest.mark.parametrize("is_live", [True, False])
async def test_an_operators_finding_is_refused_when_a_worker_is_or_was_at_it(journal: Journal, is_live: bool) -> None:
    """IDEM-12: it came between the operator's look and word."""
    seen = await taken(journal, 1, ABSENT)
    if not is_live:
        await end_lease(journal)
        await taken(journal, 2, seen)
        await end_lease(journal)

    assert isinstance(await journal.mark_absent(NAME, claim(1), version=seen), Conflict)
    assert isinstance(await journal.resolve(NAME, RESULT, fencing=1, version=seen, kept_seconds=60), Conflict)
    found = await journal.look_up(NAME)
    assert isinstance(found.record, Claim)
    assert not found.record.is_absent
