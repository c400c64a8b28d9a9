"""The builder of the tools, without building any."""

import re
import sys
from pathlib import Path

import pytest
from tests.kube.tools import RECIPES, ToolUnavailable, find_go


@pytest.mark.parametrize("name", RECIPES)
def test_each_tool_has_one_pinned_version(name: str) -> None:
    """A version that floats would change under a cached binary."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", RECIPES[name].version)


def test_without_go_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever reads a skipped test learns what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(ToolUnavailable, match=r"Go 1\.26 or newer"):
        find_go()


def test_a_go_that_is_too_old_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An old Go would fail after minutes with a message about syntax."""
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    with pytest.raises(ToolUnavailable):
        find_go()
