"""The fingerprint tells any two different requests apart, and the key's field is read strictly."""

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.idempotency.errors import KeyInvalidError, KeyMissingError
from tidegate.idempotency.fingerprint import fingerprint, join
from tidegate.idempotency.key import effect_id, names_of, parse_key, storage_name
from tidegate.identity.principal import Principal

REQUEST = {"method": "POST", "path": "/v1/credits/purchases", "query": "a=1", "content_type": "application/json", "body": b'{"amount": 1}'}
KEY = "0197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5"


def principal(**changes) -> Principal:
    values = {"issuer": "iss", "tenant": "acme", "client_id": "web", "subject": "ann", "tier": "free"}
    return Principal(**{**values, "scopes": frozenset(), "expires_at": 0, **changes})


def test_the_same_request_has_the_same_fingerprint():
    assert fingerprint(**REQUEST) == fingerprint(**REQUEST)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"path": "/v1/credits/purchase"},
        {"query": "a=2"},
        {"content_type": "application/json; charset=utf-8"},
        {"body": b'{"amount":1}'},
        {"path": "/v1/credits/purchasesa", "query": "=1"},
    ],
)
def test_a_change_of_any_covered_part_changes_the_fingerprint(change):
    """IDEM-5; raw bytes, so white space in the body counts."""
    assert fingerprint(**{**REQUEST, **change}) != fingerprint(**REQUEST)


@given(st.lists(st.binary(max_size=8)), st.lists(st.binary(max_size=8)))
def test_different_parts_never_join_to_the_same_bytes(one, other):
    assert (join(one) == join(other)) == (one == other)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=16, max_size=255))
def test_every_string_of_the_right_length_is_a_key(text):
    """IDEM-2, with an independent serializer."""
    assert parse_key([http_sf.ser(text)]) == text


@pytest.mark.parametrize(
    "parameters", ["", ";a", ";a=1;b=tok/en", '; a="x;y\\""', ";a=?1;b=:AAE=:;c=@1659578233;d=-1.5", ';a=%"f%c3%bc"', "  "]
)
def test_parameters_of_the_key_are_ignored(parameters):
    assert parse_key([f'"{KEY}"{parameters}']) == KEY


BAD_FIELDS = [
    "",
    '""',
    KEY,
    "a" + KEY[1:],
    '"short"',
    '"' + "x" * 15 + '"',
    '"' + "x" * 256 + '"',
    f'"{KEY}',
    f'"{KEY}" x',
    f'"{KEY}", "{KEY}"',
    f'"{KEY}";A=1',
    f'"{KEY}" ;a=1',
    f'"{KEY}";',
    f"'{KEY}'",
    f'"{KEY}\\n"',
    f'"{KEY}\x7f"',
    f'"{KEY}é"',
    f'"{KEY}"\n',
    f":{KEY}:",
]


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_anything_but_one_quoted_string_of_16_to_255_characters_is_refused(field):
    """IDEM-2: bare identifiers too, whatever they begin with."""
    with pytest.raises(KeyInvalidError):
        parse_key([field])


@given(st.text(st.sampled_from(list('"ax;=,\\ *?:%@1.-')), max_size=30).map(lambda tail: f'"{KEY}"{tail}'))
def test_what_is_taken_as_a_key_is_an_item_for_an_independent_parser(field):
    try:
        key = parse_key([field])
    except KeyInvalidError:
        return

    item, _ = http_sf.parse(field.encode(), tltype="item")
    assert item == key


def test_a_missing_field_and_two_lines_are_refused():
    """IDEM-1 and IDEM-3: the second pair would join to one sound string."""
    with pytest.raises(KeyMissingError):
        parse_key([])
    for lines in ([f'"{KEY}"'] * 2, ['"0197a5c0-6f1e', '7cc3-98c8-d1f5a2b3c4d5"']):
        with pytest.raises(KeyInvalidError):
            parse_key(lines)


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "other"},
        {"tenant": "other"},
        {"client_id": "other"},
        {"subject": "other"},
        {"tenant": "acmew", "client_id": "eb"},
    ],
)
def test_two_principals_never_share_a_stored_result(change):
    """IDEM-4."""
    assert storage_name(b"s" * 32, principal(**change), KEY) != storage_name(b"s" * 32, principal(), KEY)


def test_the_storage_name_depends_on_the_secret_and_shows_no_part_of_the_key():
    one, other = storage_name(b"s" * 32, principal(), KEY), storage_name(b"t" * 32, principal(), KEY)

    assert one != other
    assert KEY not in one
    assert "acme" not in one


def test_a_refreshed_token_of_another_tier_finds_the_same_result():
    changed = principal(tier="pro", scopes=frozenset({"write"}), expires_at=9)

    assert storage_name(b"s" * 32, changed, KEY) == storage_name(b"s" * 32, principal(), KEY)


def test_the_effect_id_is_the_same_for_every_attempt_and_another_for_every_other_mutation():
    """IDEM 2.4: what the outside world knows it by."""
    one = effect_id(b"s" * 32, "n" * 64, "POST", "/v1/payments")

    assert one == effect_id(b"s" * 32, "n" * 64, "POST", "/v1/payments")
    assert len(one) == 32
    others = [(b"t" * 32, "n" * 64, "POST", "/v1/payments"), (b"s" * 32, "m" * 64, "POST", "/v1/payments")]
    others += [(b"s" * 32, "n" * 64, "PUT", "/v1/payments"), (b"s" * 32, "n" * 64, "POST", "/v1/refunds")]
    assert len({one, *(effect_id(*other) for other in others)}) == 5


def test_names_and_fingerprints_are_those_of_earlier_releases():
    """By literals: under another name a retry finds no result and is done again, and under another effect id it is charged again."""
    name = storage_name(b"s" * 32, principal(), KEY)

    assert name == "b6LKF5IcJ06u0mQWlAqulA"
    assert effect_id(b"s" * 32, name, "POST", "/v1/payments") == "53392f06c88e24bcfa74a7e5b48a09e9"
    assert names_of(b"s" * 32) == b"7022bd7142422072"
    assert fingerprint(**REQUEST).hex() == "3b1b3a600f528bc7b71e1729e7696733bf9507e68a3c3bf01980e1c63d3db769"


@pytest.mark.parametrize("field", [KEY, f" {KEY} ", "a" + KEY[1:], "order_1234567890.~-"])
def test_a_bare_key_is_taken_where_that_is_wanted_and_is_the_same_key(field):
    """IDEM-2: the switch for clients of other platforms."""
    assert parse_key([field], bare=True) == field.strip() == parse_key([f'"{field.strip()}"'], bare=True)


@pytest.mark.parametrize("field", sorted({*BAD_FIELDS} - {KEY, "a" + KEY[1:]}))
def test_bare_keys_open_no_other_way(field):
    with pytest.raises(KeyInvalidError):
        parse_key([field], bare=True)


def test_two_bare_keys_are_refused():
    """IDEM-3."""
    for lines in ([KEY, KEY], [f"{KEY}, {KEY}"], [f"{KEY},{KEY}"]):
        with pytest.raises(KeyInvalidError):
            parse_key(lines, bare=True)
