"""Which store is trusted: properties of the pure decision, and literal bytes, as they lie in stores over releases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.store.errors import StoreMisconfiguredError
from tidegate.store.incarnation import Incarnation, Verdict, judge

names = st.text("0123456789abcdef", min_size=1, max_size=16)
marks = st.builds(Incarnation, st.integers(0, 5), names)


@given(marks)
def test_a_mark_comes_back_from_its_bytes(mark: Incarnation):
    assert Incarnation.decode(mark.encode()) == mark
    assert Incarnation.decode(mark.disputed().encode()).is_disputed


def test_the_bytes_are_these():
    assert Incarnation(2, "0f").encode() == b"2:0f"
    assert Incarnation(2, "0f").disputed().encode() == b"2:disputed"


@pytest.mark.parametrize("kept", [b"", b"x", b":", b"-1:a", b"1:", b"\xff:a", b"1.5:a"])
def test_what_is_no_mark_is_trusted_by_nobody(kept: bytes):
    with pytest.raises(StoreMisconfiguredError):
        Incarnation.decode(kept)


@given(st.none() | marks, st.none() | marks)
def test_only_the_same_store_or_one_accepted_since_is_trusted(stored: Incarnation | None, remembered: Incarnation | None):
    trusted = judge(stored, remembered) is Verdict.TRUST

    assert trusted == (stored is not None and (remembered in (None, stored) or stored.adoptions > remembered.adoptions))


@given(st.none() | marks)
def test_a_mark_is_made_only_where_nobody_knows_of_one(remembered: Incarnation | None):
    assert (judge(None, remembered) is Verdict.CREATE) == (remembered is None)


@given(marks, st.none() | marks)
def test_a_disputed_store_is_trusted_by_nobody_and_disputed_once(mark: Incarnation, remembered: Incarnation | None):
    assert judge(mark.disputed(), remembered) is Verdict.REFUSE


def test_two_new_marks_differ():
    assert Incarnation.new() != Incarnation.new()
