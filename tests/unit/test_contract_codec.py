"""Documents survive their text, and a text that the codec did not write is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.codec import (
    Heartbeat,
    TierDocument,
    decode_heartbeat,
    decode_tier,
    encode_heartbeat,
    encode_tier,
)
from tidegate.contract.errors import InvalidDocumentError
from tidegate.contract.tier import Tier

SPEC: dict[str, Any] = {"windows": [{"name": "minute", "limit": 60, "period": "1m"}]}
TIER = Tier.from_spec("free", SPEC)

counts = st.integers(0, 2**63 - 1)


@given(uid=st.uuids().map(str), generation=counts, limit=st.integers(1, 2**53 - 1))
def test_a_tier_document_survives_its_text(uid: str, generation: int, limit: int) -> None:
    tier = Tier.from_spec("free", {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]})
    document = TierDocument(tier, uid, generation)

    text = encode_tier(document)

    assert decode_tier("free", text) == decode_tier("free", text.encode()) == document
    assert json.loads(text)["hash"] == tier.content_hash


@given(revision=counts, at=counts, ready=st.booleans(), deciding=st.booleans())
def test_a_heartbeat_survives_its_text(revision: int, at: int, ready: bool, deciding: bool) -> None:
    heartbeat = Heartbeat(revision, at, ready, deciding)

    assert decode_heartbeat(encode_heartbeat(heartbeat)) == heartbeat


def test_a_worker_of_before_that_does_not_say_whether_it_decides_is_taken_to() -> None:
    """Or every upgrade would raise an alarm."""
    assert decode_heartbeat('{"at":1,"ready":true,"revision":2}') == Heartbeat(2, 1, True, True)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        "[]",
        "null",
        "{}",
        '{"uid": "u", "generation": 1}',
        '{"uid": "u", "generation": 1, "spec": {}}',
        json.dumps({"uid": "u", "generation": None, "spec": SPEC}),
        json.dumps({"uid": "u", "generation": 1, "spec": {**SPEC, "unknown": 1}}),
    ],
)
def test_a_text_that_is_no_tier_document_is_refused(text: bytes | str) -> None:
    with pytest.raises(InvalidDocumentError):
        decode_tier("free", text)


@pytest.mark.parametrize("text", [b"", "[]", "{}", '{"revision": 1, "at": 1}', '{"revision": "x", "at": 1, "ready": true}'])
def test_a_text_that_is_no_heartbeat_is_refused(text: bytes | str) -> None:
    with pytest.raises(InvalidDocumentError):
        decode_heartbeat(text)


def test_a_document_under_a_name_that_is_no_tiers_is_refused() -> None:
    with pytest.raises(InvalidDocumentError):
        decode_tier("Not A Name", encode_tier(TierDocument(TIER, "u", 1)))
