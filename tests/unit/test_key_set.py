"""Which keys of a JWKS may verify tokens, and that a bad file never takes the good ones away."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from structlog.testing import capture_logs

from tidegate.identity.key_set import KeySet, parse

PRIVATE = ed25519.Ed25519PrivateKey.generate()
KEY: dict[str, Any] = {**OKPAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True), "kid": "one", "alg": "EdDSA"}
P384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
SHORT = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(KEY))
    return path


def test_a_key_that_declares_id_and_algorithm_is_taken() -> None:
    assert list(parse(jwks(KEY, KEY | {"kid": "two", "use": "sig", "key_ops": ["verify"]}))) == ["one", "two"]


@pytest.mark.parametrize(
    "key",
    [
        {name: value for name, value in KEY.items() if name != "alg"},
        {name: value for name, value in KEY.items() if name != "kid"},
        KEY | {"kid": 5},
        KEY | {"kid": "a/b"},
        KEY | {"alg": "ES256"},
        KEY | {"alg": "HS256"},
        KEY | {"alg": ["EdDSA"]},
        KEY | {"use": "enc"},
        KEY | {"key_ops": ["sign"]},
        KEY | {"key_ops": 1},
        KEY | {"crv": "Ed448"},
        KEY | {"x": "AA"},
        KEY | {"x": 5},
        {**OKPAlgorithm.to_jwk(PRIVATE, as_dict=True), "kid": "one", "alg": "EdDSA", "key_ops": ["verify"]},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256"},
        {**P384, "kid": "one", "alg": "ES256"},
        {**SHORT, "kid": "one", "alg": "RS256"},
        "one",
        None,
    ],
)
def test_a_key_that_may_not_verify_tokens_is_left_out(key: object) -> None:
    """TOK-2: bound to one algorithm, for signatures only, strong enough, and public."""
    usable = KEY | {"kid": "usable"}

    with capture_logs() as logs:
        keys = parse(jwks(key, usable))

    assert list(keys) == ["usable"]
    assert [entry["event"] for entry in logs] == ["token key left out"]


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"keys": {}}', jwks(), jwks({"kty": "oct"}), jwks(KEY, KEY), b'{"keys": [], "keys": []}', b"\xff"],
)
def test_a_set_without_usable_keys_or_with_ambiguous_ones_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"keys|kid|UTF-8|object|twice|usable|Expecting"):
        parse(data)


def test_a_changed_file_is_seen_at_the_next_look_and_not_before(path: Path, clock: Clock) -> None:
    """TOK-6: at most one look a second."""
    keys = KeySet(path, clock=clock)
    path.write_bytes(jwks(KEY | {"kid": "two"}))

    clock.seconds = 0.99
    before = list(keys.current())
    clock.seconds = 1.0

    assert before == ["one"]
    assert list(keys.current()) == ["two"]


def test_a_file_swapped_behind_a_link_is_seen(tmp_path: Path, path: Path, clock: Clock) -> None:
    """A mounted Secret is a link that kubelet points to another folder."""
    link, other = tmp_path / "link", tmp_path / "other.json"
    link.symlink_to(path)
    other.write_bytes(jwks(KEY | {"kid": "two"}))
    keys = KeySet(link, clock=clock)
    (tmp_path / "next").symlink_to(other)
    (tmp_path / "next").rename(link)

    clock.seconds = 1.0

    assert list(keys.current()) == ["two"]


def test_an_unchanged_file_keeps_the_same_keys_object(path: Path, clock: Clock) -> None:
    """What is remembered about tokens hangs on it."""
    keys = KeySet(path, clock=clock)
    first = keys.current()

    clock.seconds = 5.0

    assert keys.current() is first


@pytest.mark.parametrize("content", [b"{", jwks(), None], ids=["not json", "no keys", "gone"])
def test_the_last_good_keys_stay_when_the_file_goes_bad(path: Path, clock: Clock, content: bytes | None) -> None:
    keys = KeySet(path, clock=clock)
    path.unlink() if content is None else path.write_bytes(content)

    with capture_logs() as logs:
        for clock.seconds in (1.0, 2.0, 3.0):
            kept = list(keys.current())

    assert kept == ["one"]
    assert [entry["event"] for entry in logs] == ["token keys not read, the last good ones stay"]


def test_a_file_that_appears_later_ends_the_emptiness(tmp_path: Path, clock: Clock) -> None:
    """OPS-1: readiness asks `is_empty`."""
    path = tmp_path / "later.json"
    keys = KeySet(path, clock=clock)
    was_empty = keys.is_empty
    path.write_bytes(jwks(KEY))

    clock.seconds = 1.0

    assert was_empty
    assert not keys.is_empty
