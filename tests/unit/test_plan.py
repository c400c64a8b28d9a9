"""What a region needs for one tier is decided without I/O."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.codec import TierDocument
from tidegate.contract.tier import Tier
from tidegate_operator.observation import Stored
from tidegate_operator.plan import Nothing, Publish, Retire, plan


def document(uid: str = "a", generation: int = 1, limit: int = 10) -> TierDocument:
    return TierDocument(Tier.from_spec("free", {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}), uid, generation)


def stored(**fields: Any) -> Stored:
    return held(document(**fields))


def held(published: TierDocument) -> Stored:
    return Stored("free", published.uid, published.generation, published)


DOCUMENTS = st.builds(document, st.sampled_from("ab"), st.integers(1, 3), st.integers(1, 2))


def test_a_tier_that_is_not_there_is_published():
    assert plan(document(), None) == Publish(document())


def test_an_equal_document_needs_nothing():
    assert plan(document(), stored()) == Nothing()


def test_a_newer_generation_is_published():
    assert plan(document(generation=2), stored(generation=1)) == Publish(document(generation=2))


def test_an_older_generation_of_the_same_object_is_left_to_the_newer_one():
    assert plan(document(generation=1), stored(generation=2)) == Nothing()


def test_an_object_made_anew_wins_over_any_generation_of_the_deleted_one():
    assert plan(document(uid="b", generation=1), stored(uid="a", generation=9)) == Publish(document(uid="b", generation=1))


def test_a_changed_document_of_the_same_generation_is_published():
    """An operator that fills in more defaults must reach the workers without an edit of the object."""
    assert plan(document(limit=2), stored(limit=1)) == Publish(document(limit=2))


def test_an_unwanted_tier_is_retired_by_the_uid_that_is_stored():
    assert plan(None, stored(uid="b")) == Retire("free", "b")


def test_an_unwanted_tier_that_is_not_there_needs_nothing():
    assert plan(None, None) == Nothing()


def test_a_copy_that_cannot_be_read_is_replaced_or_retired():
    assert plan(document(), Stored("free")) == Publish(document())
    assert plan(None, Stored("free")) == Retire("free", "")


@given(st.none() | DOCUMENTS, st.none() | DOCUMENTS)
def test_one_step_is_enough(desired: TierDocument | None, published: TierDocument | None):
    match plan(desired, held(published) if published else None):
        case Publish(after):
            published = after
        case Retire():
            published = None

    assert plan(desired, held(published) if published else None) == Nothing()


@given(DOCUMENTS)
def test_nothing_published_is_ever_rolled_back(published: TierDocument):
    older = replace(published, generation=published.generation - 1)

    assert plan(older, held(published)) == Nothing()
