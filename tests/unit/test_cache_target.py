"""Which path of ours a reference means."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.cache.target import path_of

words = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=6).filter(lambda word: word not in (".", ".."))


@given(st.lists(words, min_size=1, max_size=4))
def test_a_path_that_is_encoded_is_the_one_that_routes_see(words_: list[str]) -> None:
    path = "/" + "/".join(words_)

    assert path_of(quote(path), path="/elsewhere", host="api") == path
    assert path_of(f"https://API{quote(path)}?page=1", host="api") == path
    assert path_of("", path=path, host="api") == path


@given(st.text(max_size=30), st.text(max_size=10), st.sampled_from(["", "api", "api:80", "[::1]:80", "["]))
def test_no_reference_breaks_the_reader(reference: str, path: str, host: str) -> None:
    path_of(reference, path=f"/{path}", host=host)


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("b", "/v1/b"),
        ("../b", "/b"),
        ("/v1/x/./../b", "/v1/b"),
        ("?page=2", "/v1/a"),
        ("//api/b", "/b"),
        ("http://api", ""),
        ("//else/b", None),
        ("http://api:81/b", None),
        ("http://api@else/b", None),
        ("http://[", None),
    ],
)
def test_a_reference_is_relative_to_the_request_and_of_its_own_host(reference: str, path: str | None) -> None:
    """RFC 3986, 5.2."""
    assert path_of(reference, path="/v1/a", host="api") == path
