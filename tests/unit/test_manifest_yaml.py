"""What a manifest file may hold, and that nothing in one can do harm."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate_operator.manifest_yaml import MAXIMUM_BYTES, UnreadableManifestError, load_documents
from tidegate_operator.manifests import ManifestError, read_manifests


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.yaml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1s", "1s"), ("a: 2026-11-25", "2026-11-25"), ("a: 1:30", "1:30"), ("a: yes", "yes"), ("a: on", "on"), ("a: 0x10", "0x10"),
        ("a: 010", "010"), ("a: 1e3", 1000.0), ("a: .5", 0.5), ("a: true", True), ("a: ~", None), ("a:", None), ("a: null", None),
        ("a: 1_000", "1_000"), ("a: '5'", "5"), ("a: -3", -3), ("a: .", "."),
    ],
)  # fmt: skip
def test_plain_scalars_are_those_of_the_core_schema(file: Path, text: str, value: object) -> None:
    """As kubectl reads them, where a period or a date is concerned: as text."""
    file.write_text(text)

    assert load_documents(file) == [{"a": value}]


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int abc", "a: !!float x", "a: !!bool maybe", "a: !!timestamp x", "a: !!python/object:os.system x", "a: " + "[" * 20_000,
        "[" * 3_000 + "]" * 3_000, "{a: " * 3_000, "a: &b [1]\nc: *b", "a: 1\na: 2", "1: 2", "a: \x00", "? [1, 2]\n: 3", "a: b: c",
        "<<: {a: 1}\na: 2\n<<: {c: 1}",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_a_sentence(file: Path, text: str) -> None:
    file.write_text(text)

    with pytest.raises(UnreadableManifestError) as caught:
        load_documents(file)
    assert 0 < len(str(caught.value)) < 400


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    """A pipe would hold the operator up for ever, and a huge file for long."""
    directory, pipe, huge, missing = (tmp_path / name for name in ("d.yaml", "p.yaml", "h.yaml", "m.yaml"))
    directory.mkdir()
    os.mkfifo(pipe)
    huge.write_text("#" * (MAXIMUM_BYTES + 1))

    for path in (directory, pipe, huge, missing):
        with pytest.raises(UnreadableManifestError):
            load_documents(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab:-{}[]!&*<>?|'\"% \n1.~#,"), max_size=60) | st.binary(max_size=60))
def test_no_content_raises_anything_but_a_refusal(file: Path, content: str | bytes) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with suppress(ManifestError):
        read_manifests(file)


def test_an_unknown_field_beside_the_spec_is_named(file: Path) -> None:
    """As `kubectl apply` does."""
    file.write_text("apiVersion: tidegate.dev/v1alpha1\nkind: RateLimitTier\nmetadata: {name: a}\nspecs: {}\nspec: {windows: []}")

    with pytest.raises(ManifestError, match="specs: unknown field"):
        read_manifests(file)
