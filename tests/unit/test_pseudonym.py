"""Partitions never collide, and pseudonyms tell nothing to whoever lacks the key."""

from hypothesis import given
from hypothesis import strategies as st

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
