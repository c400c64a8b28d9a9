"""A stored result survives its encoding, and keeps what belongs to it alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.idempotency.errors import InvalidRecordError
from tidegate.idempotency.record import STORED_HEADERS, Record, stored_headers

records = st.builds(
    Record,
    fingerprint=st.binary(min_size=32, max_size=32),
    status=st.integers(100, 599),
    headers=st.dictionaries(st.sampled_from(STORED_HEADERS), st.text(max_size=20)),
    body=st.binary(max_size=200),
)


@given(records)
def test_decoding_gives_what_was_encoded(record):
    assert Record.decode(record.encode()) == record


@pytest.mark.parametrize("stored", [b"", b"\x80", b"{}", b"\x00", b"\x81\xa6status\xa1x"])
def test_foreign_bytes_are_refused_and_never_taken_for_no_result(stored):
    with pytest.raises(InvalidRecordError):
        Record.decode(stored)


@given(records, st.integers(1, 40))
def test_a_truncated_record_is_refused(record, missing):
    with pytest.raises(InvalidRecordError):
        Record.decode(record.encode()[:-missing])


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
