"""Replacing a key on files, and that no moment of it loses the one in use."""

from pathlib import Path

import pytest

from tidegate.identity import rotation
from tidegate.identity.rotation import REPLACEABLE, RotationError

KEY, OTHER_KEY = "identity.key", "identity.other.key"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / KEY).write_bytes(b"o" * 43)
    return tmp_path


def test_a_key_is_replaced_in_three_steps(keys: Path) -> None:
    rotation.begin(keys, "identity")
    new = (keys / OTHER_KEY).read_bytes()
    assert ((keys / KEY).read_bytes(), len(new) >= 32) == (b"o" * 43, True)

    rotation.switch(keys, "identity")
    assert ((keys / KEY).read_bytes(), (keys / OTHER_KEY).read_bytes()) == (new, b"o" * 43)

    rotation.finish(keys, "identity")
    assert [path.name for path in keys.iterdir()] == [KEY]


def test_every_key_has_files_of_its_own(tmp_path: Path) -> None:
    for name in REPLACEABLE:
        (tmp_path / f"{name}.key").write_bytes(b"o" * 43)
        rotation.begin(tmp_path, name)

    assert {path.name for path in tmp_path.iterdir()} == {f"{name}{end}" for name in REPLACEABLE for end in (".key", ".other.key")}


def test_files_are_for_the_owner_alone(keys: Path) -> None:
    rotation.begin(keys, "identity")
    rotation.switch(keys, "identity")

    assert {path.stat().st_mode & 0o777 for path in keys.iterdir() if path.name != KEY} == {0o600}


def test_steps_out_of_order_are_refused_and_change_nothing(keys: Path, tmp_path: Path) -> None:
    for step in (rotation.switch, rotation.finish):
        with pytest.raises(RotationError):
            step(keys, "identity")
    rotation.begin(keys, "identity")
    other = (keys / OTHER_KEY).read_bytes()
    with pytest.raises(RotationError, match="under way"):
        rotation.begin(keys, "identity")
    with pytest.raises(RotationError):
        rotation.begin(tmp_path / "nowhere", "identity")

    assert (keys / OTHER_KEY).read_bytes() == other


def test_a_switch_that_was_cut_off_loses_no_key_in_use(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new key was preferred by nobody yet, so it may be made again."""
    rotation.begin(keys, "identity")
    original = rotation._write

    def write_first_only(path: Path, secret: bytes) -> None:
        if path.name == KEY:
            raise RotationError("the disk is full")
        original(path, secret)

    monkeypatch.setattr(rotation, "_write", write_first_only)
    with pytest.raises(RotationError):
        rotation.switch(keys, "identity")
    monkeypatch.undo()

    assert (keys / KEY).read_bytes() == b"o" * 43
    with pytest.raises(RotationError, match="begin again"):
        rotation.switch(keys, "identity")
    rotation.begin(keys, "identity")
    rotation.switch(keys, "identity")
