"""The checker of histories itself: it accepts what can be and refuses what cannot, by a definition that is too slow for anything else."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.chaos.history import Operation, Saw, is_linearizable

ITS_OWN, WRITTEN, NOTHING, NO_ANSWER = Saw


def operation(called: float, answered: float, saw: Saw, value: bytes = b"a") -> Operation:
    return Operation(called, answered, saw, value)


@pytest.mark.parametrize(
    "history",
    [
        [],
        [operation(0, 1, NOTHING), operation(2, 3, ITS_OWN), operation(4, 5, WRITTEN)],
        [operation(0, 9, ITS_OWN), operation(1, 2, WRITTEN), operation(0, 1, NOTHING)],
        [operation(0, 9, ITS_OWN), operation(1, 5, NOTHING), operation(2, 4, WRITTEN)],
        [operation(0, 1, NO_ANSWER), operation(2, 3, WRITTEN)],
        [operation(0, 1, NO_ANSWER), operation(2, 3, NOTHING), operation(4, 5, WRITTEN)],
        [operation(0, 1, NO_ANSWER), operation(2, 3, ITS_OWN)],
    ],
    ids=["nothing", "in_turn", "read_while_written", "two_readers_at_once", "lost_but_done", "lost_and_done_late", "lost_and_not_done"],
)
def test_what_can_be_is_accepted(history):
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [operation(0, 1, WRITTEN)],
        [operation(0, 1, ITS_OWN), operation(2, 3, ITS_OWN)],
        [operation(0, 9, ITS_OWN), operation(0, 9, ITS_OWN, b"b")],
        [operation(0, 1, ITS_OWN), operation(2, 3, WRITTEN, b"b")],
        [operation(0, 1, ITS_OWN), operation(2, 3, NOTHING)],
        [operation(0, 9, ITS_OWN), operation(1, 2, WRITTEN), operation(3, 4, NOTHING)],
        [operation(0, 1, WRITTEN), operation(2, 3, NO_ANSWER)],
        [operation(0, 1, NO_ANSWER), operation(2, 3, WRITTEN), operation(4, 5, WRITTEN, b"b")],
    ],
    ids=[
        "never_written",
        "written_twice",
        "written_twice_at_once",
        "changed",
        "forgotten",
        "forgotten_after_it_was_read",
        "read_before_it_was_written",
        "changed_by_nobody",
    ],
)
def test_what_cannot_be_is_refused(history):
    assert not is_linearizable(history)


def explains(order: tuple[Operation, ...]) -> bool:
    """Whether the operations, done in this order, see what they saw: the definition, step by step."""
    states: set[bytes | None] = {None}
    for place, this in enumerate(order):
        if any(later.saw is not NO_ANSWER and later.answered < this.called for later in order[place:]):
            return False
        match this.saw:
            case Saw.ITS_OWN:
                states = {this.value} if None in states else set()
            case Saw.NOTHING:
                states &= {None}
            case Saw.WRITTEN:
                states &= {this.value}
            case Saw.NO_ANSWER:
                states |= {b"a", b"b"} if None in states else set()
    return bool(states)


# Few instants, so that many operations overlap and many meet at an end.
operations = st.builds(
    lambda called, lasts, saw, value: Operation(called, called + lasts, saw, value),
    st.integers(0, 6),
    st.integers(0, 4),
    st.sampled_from(Saw),
    st.sampled_from([b"a", b"b"]),
)


@given(st.lists(operations, max_size=5))
def test_it_agrees_with_the_definition(history):
    """An operation without an answer may be left out; one at the end of the order says the same."""
    assert is_linearizable(history) == any(map(explains, permutations(history)))


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), st.booleans()), max_size=12), st.integers(0, 12))
def test_a_history_of_a_register_is_accepted_and_not_once_it_forgot(attempts, writer):
    """Made by one: the attempt in place `writer` writes, each has its effect at one instant of its own, and some lose their answers."""
    made = []
    for place, (early, late, is_lost) in enumerate(attempts):
        saw = NO_ANSWER if is_lost else NOTHING if place < writer else ITS_OWN if place == writer else WRITTEN
        made.append(Operation(place - early, place + late, saw, b"a"))
    forgetful = Operation(len(attempts) + 4, len(attempts) + 5, NOTHING)

    assert is_linearizable(made)
    assert is_linearizable([*made, forgetful]) == all(operation.saw in (NOTHING, NO_ANSWER) for operation in made)
