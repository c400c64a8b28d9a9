"""The file of the last tiers, on a disk that does not take it."""

from pathlib import Path

import pytest

from tidegate.tiers import last_good
from tidegate.tiers.last_good import LastGoodError
from tidegate.tiers.snapshot import Documents


def test_a_file_that_cannot_be_replaced_is_a_typed_error_and_leaves_nothing(tmp_path: Path):
    """Else each attempt would fill the disk a little more."""
    path = tmp_path / "tiers.json"
    path.mkdir()

    with pytest.raises(LastGoodError, match=r"tiers\.json"):
        last_good.save(path, Documents())

    assert list(tmp_path.iterdir()) == [path]
