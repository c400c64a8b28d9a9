"""Names and ciphertext of a lane."""

from hypothesis import given
from hypothesis import strategies as st

from tidegate.cache.sealing import LaneKeys

NAMES, OLD, NEW = b"n" * 32, b"o" * 32, b"w" * 32
parts = st.lists(st.text(max_size=6) | st.integers() | st.none(), max_size=3)


@given(st.binary(max_size=100), st.binary(max_size=20), st.integers(0), st.integers(1, 255))
def test_what_was_sealed_opens_under_its_name_unchanged_and_not_otherwise(plain: bytes, name: bytes, place: int, change: int) -> None:
    lane = LaneKeys("own|uid", NAMES, OLD)
    sealed = lane.seal(plain, name)
    changed = bytearray(sealed)
    changed[place % len(sealed)] ^= change

    assert lane.open(sealed, name) == plain
    assert lane.open(sealed, name + b"x") is None
    assert lane.open(bytes(changed), name) is None
    assert lane.open(sealed[:place], name) in (None, plain)


def test_no_lane_opens_or_names_what_is_anothers() -> None:
    """LANE-1, LANE-3: nor does a tier that has the name of one before."""
    first, second, again = (LaneKeys(lane, NAMES, OLD) for lane in ("own|uid", "own|other", "own|uid"))
    sealed = first.seal(b"x", b"name")

    assert second.open(sealed, b"name") is None
    assert again.open(sealed, b"name") == b"x"
    assert first.name("a") != second.name("a")


def test_while_a_secret_is_replaced_names_stay_and_either_opens() -> None:
    before, between, after = LaneKeys("l", NAMES, OLD), LaneKeys("l", NAMES, NEW, OLD), LaneKeys("l", NAMES, NEW)

    assert before.name("a") == between.name("a") == after.name("a")
    assert between.open(before.seal(b"x", b"n"), b"n") == b"x"
    assert after.open(between.seal(b"x", b"n"), b"n") == b"x"
    assert after.open(before.seal(b"x", b"n"), b"n") is None


@given(parts, parts)
def test_names_are_equal_for_equal_parts_alone(first: list[object], second: list[object]) -> None:
    lane = LaneKeys("l", NAMES, OLD)

    assert (lane.name(*first) == lane.name(*second)) == (repr(first) == repr(second))
    assert len(lane.text_name(*first)) == 22
