"""What every consistent store promises; one suite for all adapters."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.store.base import ABSENT, Committed, Conflict, ConsistentStore, Write


async def put(store: ConsistentStore, key: str, value: bytes) -> int:
    """Set a key whatever it holds; the version."""
    result = await store.commit({}, [Write(key, value)])
    assert isinstance(result, Committed)
    return result.version


async def test_an_absent_key_is_missing_in_the_answer(store):
    await put(store, "a", b"1")

    assert set(await store.read(["a", "b"])) == {"a"}
    assert await store.read([]) == {}


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)), b"0" * 100_000])
async def test_a_value_comes_back_byte_for_byte_with_its_version(store, value):
    version = await put(store, "a", value)

    found = (await store.read(["a"]))["a"]
    assert (found.value, found.version) == (value, version)


async def test_keys_that_look_like_the_stores_own_are_ordinary_keys(store):
    for key in ("version", "value:", "", "é{}"):
        await put(store, key, key.encode())

    found = await store.read(["version", "value:", "", "é{}"])
    assert {key: item.value.decode() for key, item in found.items()} == {key: key for key in found}
    assert len(found) == 4


async def test_all_writes_of_a_commit_share_one_version(store):
    result = await store.commit({"a": ABSENT}, [Write("a", b"1"), Write("b", b"2")])

    found = await store.read(["a", "b"])
    assert [found["a"].version, found["b"].version] == [result.version] * 2


async def test_a_conflict_names_every_changed_key_and_writes_nothing(store):
    """All or nothing, whichever of the conditions fails."""
    version = await put(store, "a", b"1")
    await put(store, "b", b"1")

    result = await store.commit({"a": version, "b": ABSENT, "c": 7}, [Write("a", b"2"), Write("d", b"2")])

    assert result == Conflict(("b", "c"))
    found = await store.read(["a", "b", "c", "d"])
    assert {key: item.value for key, item in found.items()} == {"a": b"1", "b": b"1"}


async def test_a_key_that_was_only_read_guards_the_commit_too(store):
    version = await put(store, "read", b"1")
    await put(store, "read", b"2")

    assert await store.commit({"read": version}, [Write("a", b"1")]) == Conflict(("read",))


async def test_a_version_is_never_given_twice_not_even_after_a_deletion(store):
    """Else a writer that read before the deletion would overwrite what was created after it."""
    first = await put(store, "a", b"1")
    await store.commit({"a": first}, [Write("a", None)])
    second = await put(store, "a", b"1")

    assert second > first
    assert await store.commit({"a": first}, [Write("a", b"2")]) == Conflict(("a",))


async def test_a_deleted_key_is_absent(store):
    version = await put(store, "a", b"1")

    await store.commit({"a": version}, [Write("a", None)])

    assert await store.read(["a"]) == {}
    assert isinstance(await store.commit({"a": ABSENT}, [Write("a", b"2")]), Committed)


async def test_a_commit_that_is_sent_twice_takes_effect_once(store):
    """IDEM-20: what was expected has a new version after the first time."""
    arguments = {"a": ABSENT}, [Write("a", b"1"), Write("b", b"1")]
    first = await store.commit(*arguments)

    assert await store.commit(*arguments) == Conflict(("a",))
    assert (await store.read(["b"]))["b"].version == first.version


async def test_a_value_disappears_after_its_retention(store, eventually):
    begun = time.monotonic()
    await store.commit({}, [Write("short", b"1", retention_seconds=1), Write("long", b"1")])

    assert set(await store.read(["short", "long"])) == {"short", "long"}

    async def is_gone() -> bool:
        return set(await store.read(["short", "long"])) == {"long"}

    # etcd's leases last two seconds at least, and it looks for those that have ended twice a second.
    await eventually(is_gone, 15)
    assert time.monotonic() - begun >= 1


async def test_racing_increments_are_all_counted(store):
    """Linearizable: no increment is lost, none counts twice."""

    async def increment() -> None:
        while True:
            found = (await store.read(["count"])).get("count")
            count = int(found.value) if found else 0
            expected = {"count": found.version if found else ABSENT}
            if isinstance(await store.commit(expected, [Write("count", b"%d" % (count + 1))]), Committed):
                return

    await asyncio.gather(*(increment() for _ in range(30)))

    assert (await store.read(["count"]))["count"].value == b"30"


async def test_of_many_commits_at_once_that_expect_one_version_one_wins(store):
    """IDEM-9, on the store's side; each loser learns which key it lost by."""
    version = await put(store, "a", b"1")
    for _ in range(3):
        results = await asyncio.gather(*(store.commit({"a": version}, [Write("a", b"%d" % number)]) for number in range(200)))

        won = [number for number, result in enumerate(results) if isinstance(result, Committed)]
        assert len(won) == 1
        assert all(result == Conflict(("a",)) for result in results if isinstance(result, Conflict))
        found = (await store.read(["a"]))["a"]
        assert found.value == b"%d" % won[0]
        version = found.version


async def test_sixty_writes_are_one_commit(store):
    names = [f"many-{number}" for number in range(60)]
    writes = [Write(name, name.encode() * 100, retention_seconds=3600) for name in names]

    result = await store.commit(dict.fromkeys(names, ABSENT), writes)

    found = await store.read(names)
    assert {key: (item.value, item.version) for key, item in found.items()} == {w.key: (w.value, result.version) for w in writes}


async def test_a_value_that_is_written_again_is_kept_as_long_as_the_new_one_says(store):
    """A claim is renewed that way; and what is to be kept for ever loses its end."""
    begun = time.monotonic()
    await store.commit({}, [Write("ends", b"1", retention_seconds=1), Write("a", b"1", retention_seconds=1)])
    await store.commit({}, [Write("a", b"2")])

    while "ends" in await store.read(["ends"]):
        assert time.monotonic() - begun < 15
        await asyncio.sleep(0.05)
    assert (await store.read(["a"]))["a"].value == b"2"


async def test_an_empty_commit_succeeds_or_conflicts(store):
    version = await put(store, "a", b"1")

    assert isinstance(await store.commit({"a": version}, []), Committed)
    assert await store.commit({"a": ABSENT}, []) == Conflict(("a",))


KEYS = ("a", "b", "c")
histories = count()


@dataclass(frozen=True)
class Step:
    """A commit: by key what it expects (the version as it is, none, or that of how many commits ago) and writes."""

    expects: Mapping[str, str | int]
    writes: Mapping[str, bytes | None]


steps = st.lists(
    st.builds(
        Step,
        expects=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["current", "absent"]) | st.integers(1, 3)),
        writes=st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=8)),
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps)
async def test_a_store_does_what_a_dictionary_with_versions_does(store, history: list[Step]):
    """Whatever was committed before: the same conflicts, in the order of what was expected, and the same values."""
    prefix = f"history-{next(histories)}/"
    model: dict[str, tuple[bytes, int]] = {}
    versions = [0]
    for step in history:
        given_versions = {key: version_for(what, model.get(key), versions) for key, what in step.expects.items()}
        changed = tuple(key for key, version in given_versions.items() if version != model.get(key, (b"", ABSENT))[1])

        result = await store.commit(
            {prefix + key: version for key, version in given_versions.items()},
            [Write(prefix + key, value) for key, value in step.writes.items()],
        )

        if changed:
            assert result == Conflict(tuple(prefix + key for key in changed))
        else:
            assert isinstance(result, Committed)
            assert result.version >= versions[-1]
            versions.append(result.version)
            for key, value in step.writes.items():
                model.pop(key, None)
                if value is not None:
                    model[key] = (value, result.version)
        found = await store.read([prefix + key for key in KEYS])
        assert {key.removeprefix(prefix): (item.value, item.version) for key, item in found.items()} == model


def version_for(what: str | int, current: tuple[bytes, int] | None, versions: list[int]) -> int:
    if what == "current":
        return current[1] if current else ABSENT
    return ABSENT if what == "absent" else versions[-min(int(what), len(versions))]
