"""Request JSON is read strictly (ERR-4)."""

from types import SimpleNamespace
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.resources.content import parse, read_object, read_struct
from tidegate.resources.errors import InvalidContentError, InvalidMembersError, UnsupportedContentTypeError


class Order(msgspec.Struct):
    amount: Annotated[int, msgspec.Meta(ge=1, le=10)]
    lines: list[int] = []
    currency: Literal["EUR"] = "EUR"


def request(body: bytes, content_type: str | None = "application/json", content_encoding: str | None = None):
    headers = {"Content-Encoding": content_encoding}
    return SimpleNamespace(content_type=content_type, get_header=headers.get, context=SimpleNamespace(body=body))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


@given(values)
def test_every_sound_value_is_read(value):
    assert parse(msgspec.json.encode(value)) == value


BAD_BODIES = [
    b"",
    b" ",
    b"{",
    b"{'a': 1}",
    b'{"a": 1, "a": 1}',
    b'{"b": {"a": 1, "a": 2}}',
    b"NaN",
    b"[Infinity]",
    b"[-Infinity]",
    b"1e999",
    b"1" * 5_000,
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\\ud800"',
    b'{"\\udfff": 1}',
    b"\xef\xbb\xbf{}",
    "{}".encode("utf-16"),
    b"{}{}",
    b"[1,]",
    b'"\n"',
]


@pytest.mark.parametrize("body", BAD_BODIES)
def test_ambiguous_or_broken_json_is_refused(body):
    with pytest.raises(InvalidContentError):
        parse(body)


def test_32_levels_are_read_and_33_are_not():
    assert parse(b"[" * 32 + b"]" * 32)

    for depth in (33, 100_000):
        with pytest.raises(InvalidContentError, match="32 levels"):
            parse(b"[" * depth + b"]" * depth)
    with pytest.raises(InvalidContentError, match="32 levels"):
        parse(b'{"a":' * 33 + b"1" + b"}" * 33)


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"']
)
def test_json_in_utf_8_is_taken(content_type):
    assert read_object(request(b'{"a": 1}', content_type)) == {"a": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/json",
        "application/jsonp",
        "application/json; charset=latin-1",
        "application/json; v=2",
        "application/x-www-form-urlencoded",
        ";",
    ],
)
def test_any_other_content_type_is_refused(content_type):
    with pytest.raises(UnsupportedContentTypeError):
        read_object(request(b"{}", content_type))


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"a"'])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(InvalidMembersError):
        read_object(request(body))


def test_a_sound_body_becomes_the_struct_with_its_defaults():
    assert read_struct(request(b'{"amount": 3}'), Order) == Order(amount=3)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", [("$.amount", "Required")]),
        (b'{"amount": 0}', [("$.amount", "Invalid")]),
        (b'{"amount": 11}', [("$.amount", "Invalid")]),
        (b'{"amount": true}', [("$.amount", "Invalid")]),
        (b'{"amount": 1.0}', [("$.amount", "Invalid")]),
        (b'{"amount": "1"}', [("$.amount", "Invalid")]),
        (b'{"amount": null}', [("$.amount", "Invalid")]),
        (b'{"amount": 1180591620717411303424}', [("$.amount", "Invalid")]),
        (b'{"amount": 1, "lines": [1, "x"]}', [("$.lines[1]", "Invalid")]),
        (b'{"Amount": 1, "currency": "USD"}', [("$.Amount", "Unknown"), ("$.amount", "Required"), ("$.currency", "Invalid")]),
    ],
)
def test_every_wrong_member_is_named_at_once(body, expected):
    with pytest.raises(InvalidMembersError) as caught:
        read_struct(request(body), Order)

    assert [(violation.path, violation.reason) for violation in caught.value.violations] == expected


class Line(msgspec.Struct, rename="camel", tag_field="type", tag="line"):
    unit_price: int = 1
    parts: list["Line"] = []

    def __post_init__(self):
        if self.unit_price > 9:
            raise ValueError("is too dear")


class Basket(msgspec.Struct):
    line: Line | None = None
    pair: tuple[Line, int] | None = None
    by_name: dict[str, Line] = {}
    anything: dict[str, Any] = {}

    def __post_init__(self):
        if self.line and self.pair:
            raise ValueError("line and pair exclude each other")


def test_members_of_inner_structs_are_read():
    body = (
        b"""{"line": {"type": "line", "unitPrice": 2, "parts": [{}]}, "by_name": {"a": {"unitPrice": 3}}, "anything": {"x": {"y": [1]}}}"""
    )

    basket = read_struct(request(body), Basket)

    assert basket == Basket(line=Line(2, [Line()]), by_name={"a": Line(3)}, anything={"x": {"y": [1]}})


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"line": {"unit_price": 1, "x": 2}}', [("$.line.unit_price", "Unknown"), ("$.line.x", "Unknown")]),
        (b'{"line": {"parts": [{}, {"parts": [{"x": 1}]}]}}', [("$.line.parts[1].parts[0].x", "Unknown")]),
        (b'{"pair": [{"x": 1}, 2]}', [("$.pair[0].x", "Unknown")]),
        (b'{"by_name": {"a": {}, "b": {"x": 1}}, "y": 1}', [("$.y", "Unknown"), ("$.by_name.b.x", "Unknown")]),
        (b'{"line": {"unitPrice": 10}}', [("$.line", "Invalid")]),
        (b'{"line": {}, "pair": [{}, 1]}', [("$", "Invalid")]),
    ],
)
def test_inner_structs_and_combinations_are_refused_like_members(body, expected):
    with pytest.raises(InvalidMembersError) as caught:
        read_struct(request(body), Basket)

    assert [(violation.path, violation.reason) for violation in caught.value.violations] == expected


def test_a_refused_combination_is_told_in_the_words_of_the_struct():
    with pytest.raises(InvalidMembersError) as caught:
        read_struct(request(b'{"line": {}, "pair": [{}, 1]}'), Basket)

    assert caught.value.violations[0].message == "line and pair exclude each other"


def test_an_encoded_body_is_refused():
    with pytest.raises(UnsupportedContentTypeError):
        read_object(request(b"{}", content_encoding="gzip"))


@pytest.mark.parametrize("body", [b'{"a": ' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b"{", b"[1,]"])
def test_a_refusal_says_nothing_of_the_parser(body):
    """ERR-1: no library's own words."""
    with pytest.raises(InvalidContentError) as caught:
        parse(body)

    assert not any(word in str(caught.value) for word in ("sys.", "utf-8-sig", "Expecting", "int"))
