"""Partitions never collide, and pseudonyms tell nothing to whoever lacks the key."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.keys import shard_of
from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal
from tidegate.identity.pseudonym import Pseudonyms

names = st.text(st.sampled_from("a1|:"), min_size=1, max_size=6)
identities = st.tuples(names, names, names)
kinds = st.sampled_from(PartitionBy)


def principal(issuer: str, tenant: str, client_id: str) -> Principal:
    return Principal(issuer, tenant, client_id, "sub", "free", frozenset(), 0)


@given(one=identities, other=identities, by=kinds, other_by=kinds)
def test_two_partitions_are_equal_only_for_the_same_identity(
    one: tuple[str, str, str], other: tuple[str, str, str], by: PartitionBy, other_by: PartitionBy
) -> None:
    """VEC-1: no choice of tenant and client imitates another's counters."""
    length = {PartitionBy.TOKEN: 3, PartitionBy.TENANT: 2}
    same = one[: length[by]] == other[: length[other_by]]

    assert (principal(*one).partition(by) == principal(*other).partition(other_by)) is same


def test_a_pseudonym_is_the_same_in_every_process() -> None:
    """The literal guards against a change that would refill every quota."""
    partition = principal("https://issuer.example", "acme", "client-1").partition(PartitionBy.TOKEN)

    assert partition == "22:https://issuer.example|4:acme|8:client-1"
    assert Pseudonyms(b"k" * 32).tids(partition) == ("pGldW9hNSGz6Wmv6UwT7mQ",)


def test_another_key_gives_another_pseudonym() -> None:
    one, other, both = Pseudonyms(b"k" * 32), Pseudonyms(b"l" * 32), Pseudonyms(b"k" * 32, b"l" * 32)

    assert one.tids("p") != other.tids("p")
    assert both.tids("p") == one.tids("p") + other.tids("p")


@given(partition=st.text(st.characters(exclude_categories=["Cs"]), min_size=4))
def test_a_pseudonym_is_22_characters_that_do_not_hold_the_partition(partition: str) -> None:
    (tid,) = Pseudonyms(b"k" * 32).tids(partition)

    assert len(tid) == 22
    assert set(tid) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert partition not in tid


def test_all_names_of_an_identity_are_of_one_shard() -> None:
    """VEC-3: whichever keys a worker knows, in the middle of a replacement and after it; by a literal, as another choice refills quotas."""
    shards = {"shards": 12, "shard_key": b"s" * 32}
    steps = [Pseudonyms(*keys, **shards) for keys in ((b"k" * 32,), (b"k" * 32, b"l" * 32), (b"l" * 32, b"k" * 32), (b"l" * 32,))]

    names = [name for step in steps for name in step.tids("p")]

    assert {shard_of(name) for name in names} == {6}
    assert {name.partition(":")[2] for name in names} == set(Pseudonyms(b"k" * 32, b"l" * 32).tids("p"))


def test_identities_spread_evenly_over_shards_and_the_shard_tells_nothing() -> None:
    counted = [
        Counter(shard_of(Pseudonyms(b"k" * 32, shards=8, shard_key=key).tids(str(n))[0]) for n in range(2_000)) for key in (b"s", b"t")
    ]

    for shards in counted:
        assert sorted(shards) == list(range(8))
        assert max(shards.values()) < 2_000 / 8 * 1.3
    assert counted[0] != counted[1]
