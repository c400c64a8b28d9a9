"""What is stored of a mutation survives its encoding, keeps what belongs to it alone, and is open to holders of a key only."""

from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.idempotency.errors import InvalidRecordError
from tidegate.idempotency.journal import lease_key, result_key, tombstone_key
from tidegate.idempotency.record import STORED_HEADERS, Claim, Result, Tombstone, decode, digest, encode, stored_headers
from tidegate.idempotency.sealing import HEADER_BYTES, Sealer
from tidegate.store.etcd import PREFIX
from tidegate.store.redis import VALUE_PREFIX, VERSION_KEY

fingerprints = st.binary(min_size=32, max_size=32)
results = st.builds(
    Result,
    fingerprint=fingerprints,
    status=st.integers(100, 599),
    headers=st.dictionaries(st.sampled_from(STORED_HEADERS), st.text(max_size=20)),
    body=st.binary(max_size=200),
)
claims = st.builds(
    Claim,
    fingerprint=fingerprints,
    effect_id=st.text(max_size=32),
    owner=st.text(max_size=16),
    fencing=st.integers(1, 2**32 - 1),
    started_at=st.floats(0, 2**33),
    is_absent=st.booleans(),
)
tombstones = st.builds(Tombstone, fingerprint=fingerprints, outcome=st.binary(min_size=16, max_size=16))
records = results | claims | tombstones
OLD, NEW = b"o" * 32, b"n" * 32
NAME = "result/" + "0" * 64


@given(records)
def test_decoding_gives_what_was_encoded(record):
    assert decode(encode(record)) == record


@pytest.mark.parametrize("stored", [b"", b"\x80", b"{}", b"\x00", b"\x81\xa6status\xa1x", b"\x91\x04", b"\x92\x01\xa1x"])
def test_foreign_bytes_are_refused_and_never_taken_for_no_result(stored):
    with pytest.raises(InvalidRecordError):
        decode(stored)


@given(records, st.integers(1, 40))
def test_a_truncated_record_is_refused(record, missing):
    with pytest.raises(InvalidRecordError):
        decode(encode(record)[:-missing])


def test_only_headers_of_the_result_are_kept():
    """IDEM-8 and B10."""
    kept = {"content-type": "application/json", "location": "/v1/x", "etag": '"1"', "link": "</a>; rel=next"}
    dropped = {
        "date": "x",
        "set-cookie": "x",
        "ratelimit": "x",
        "ratelimit-policy": "x",
        "retry-after": "1",
        "x-request-id": "x",
        "traceparent": "x",
    }

    assert stored_headers({**kept, **dropped}) == kept


@given(results, results)
def test_two_outcomes_have_two_digests(one, other):
    assert (digest(encode(one)) == digest(encode(other))) == (encode(one) == encode(other))


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_opening_gives_what_was_sealed(plain, fencing):
    """IDEM-23."""
    sealer = Sealer(NEW)

    sealed = sealer.seal(plain, NAME, fencing)

    assert sealer.open(sealed, NAME) == plain
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(max_size=50), st.integers(0, 8 * (HEADER_BYTES + 16) - 1))
def test_any_changed_bit_is_refused(plain, bit):
    """IDEM-23: of the header, so of the fencing number too, and of the ciphertext."""
    sealer = Sealer(NEW)
    sealed = bytearray(sealer.seal(plain, NAME, 3))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(InvalidRecordError):
        sealer.open(bytes(sealed), NAME)


def test_a_result_that_was_moved_to_another_name_is_refused():
    sealer = Sealer(NEW)

    with pytest.raises(InvalidRecordError, match="another name"):
        sealer.open(sealer.seal(b"paid", NAME, 0), NAME[:-1] + "1")


@given(st.binary(max_size=HEADER_BYTES + 15))
def test_what_is_too_short_is_refused(sealed):
    with pytest.raises(InvalidRecordError):
        Sealer(NEW).open(sealed, NAME)


def test_a_replaced_key_opens_what_it_sealed_and_seals_nothing_more():
    old = Sealer(OLD).seal(b"paid", NAME, 0)
    both = Sealer(NEW, OLD)

    assert both.open(old, NAME) == b"paid"
    assert Sealer(NEW).open(both.seal(b"paid", NAME, 0), NAME) == b"paid"
    with pytest.raises(InvalidRecordError, match="which this worker does not have"):
        Sealer(NEW).open(old, NAME)


def test_the_same_is_never_sealed_to_the_same_bytes():
    sealer = Sealer(NEW)

    assert len({sealer.seal(b"paid", NAME, 0) for _ in range(100)}) == 100


def test_no_error_holds_a_secret():
    with pytest.raises(InvalidRecordError) as caught:
        Sealer(NEW).open(Sealer(OLD).seal(b"paid", NAME, 0), NAME)

    assert not any(secret.decode() in str(caught.value) for secret in (OLD, NEW))


def test_what_earlier_releases_stored_is_found_and_read():
    """By literals, as it lies in stores: what is looked for elsewhere, or cannot be read, is done again or never."""
    number, sealer = "0" * 22, Sealer(OLD)
    keys = result_key(number), lease_key(number), tombstone_key(number)
    stored = {
        "AYgIJnEAAAAAAAAAAAAAAAAAAAAAzhAswXMUNPno+nDOgyuZtdbWLvyIGPuY08W1KbvpLu5Pae1kSLbBdsoqmDGDuQCrue7xoyWcANbadhNQecvwx+0nQ0twYrM=": (
            keys[0],
            Result(fingerprint=b"f" * 32, status=201, headers={"location": "/a"}, body=b"{}"),
        ),
        "AYgIJnEAAAACAAAAAAAAAAAAAAAAzBMswXMUNPno+nDOgyuZtdbWLvyIGPuY08W1KbvpLu5Pae1kJRrhsaSOxKj30G/FG8FSQNbuUeGPgb/dHnWovnwN2A==": (
            keys[0],
            Claim(fingerprint=b"f" * 32, effect_id="e", owner="o", fencing=2, started_at=1.5),
        ),
        "AYgIJnEAAAAAAAAAAAAAAAAAAAAAyBIswXMUNPno+nDOgyuZtdbWLvyIGPuY08W1KbvpLu5Pae1kQG8kusIhnzSTtAuhf6X0A0OD29dYtMijBVGyEoPwSsMTmQ==": (
            keys[2],
            Tombstone(fingerprint=b"f" * 32, outcome=b"d" * 16),
        ),
    }

    assert keys == (f"result/{number}", f"lease/{number}", f"tombstone/{number}")
    assert (VALUE_PREFIX, VERSION_KEY, PREFIX) == ("tg:1:store:value:", "tg:1:store:version", "tidegate/1/")
    for text, (key, record) in stored.items():
        assert decode(sealer.open(b64decode(text), key)) == record
