"""The documentation keeps up with the code."""

import re
from pathlib import Path

import pytest

from tidegate.problems import BASE, INTERNAL, RATE_LIMIT_BASE, REGISTRY
from tidegate.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_every_setting_is_documented(field: str) -> None:
    """A setting without a row in docs/settings.md fails here."""
    assert f"| `{PREFIX}{field.upper()}` |" in (ROOT / "docs/settings.md").read_text()


def test_documented_defaults_are_the_real_ones() -> None:
    """The table's default column is what the code does when the variable is absent."""
    rows = dict(re.findall(rf"\| `{PREFIX}(?!OPERATOR)(\w+)` \| (\S+) \|", (ROOT / "docs/settings.md").read_text()))

    for name, default in zip(Settings.__struct_fields__[-len(Settings.__struct_defaults__) :], Settings.__struct_defaults__, strict=True):
        written = rows[name.upper()]
        assert written == (f"`{default}`" if default != "" else "empty"), name


def test_problem_types_and_their_documentation_are_equal() -> None:
    """ERR-2: a problem type without a heading, or a heading without a type, fails here."""
    headings = set(re.findall(r"^## (\S+)$", (ROOT / "docs/problems.md").read_text(), re.MULTILINE))
    types = {problem.type.removeprefix(BASE).removeprefix(RATE_LIMIT_BASE) for problem in [*REGISTRY.values(), INTERNAL]}

    assert headings == types


def test_rooms_are_not_packages() -> None:
    """An `__init__.py` in operator/ would shadow the standard library's module of that name."""
    assert not (ROOT / "app/__init__.py").exists()
    assert not (ROOT / "operator/__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))

    import operator

    assert operator.itemgetter


def test_every_make_verb_of_the_readme_exists() -> None:
    """A newcomer pastes these."""
    verbs = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert verbs
    assert verbs <= targets


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_test_that_the_threat_table_names_exists() -> None:
    for path in re.findall(r"`(tests/[\w/.]+)`", (ROOT / "SECURITY.md").read_text()):
        assert (ROOT / path).exists(), path


def test_lock_files_hold_hashes_and_no_address() -> None:
    """A registry's address in a lock file would send a newcomer to somebody else's mirror."""
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--hash=sha256:" in text, lock.name
