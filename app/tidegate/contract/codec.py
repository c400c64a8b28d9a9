"""The JSON documents that cross regional Redis: tiers one way, heartbeats the other.

Called by the operator's publisher and status, and by the API's tier source.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidegate.contract.errors import InvalidDocumentError, InvalidTierError
from tidegate.contract.tier import Tier


@dataclass(frozen=True, slots=True)
class TierDocument:
    """A tier as published: `uid` and `generation` fence the write, `content_hash` tells equal content without a comparison.

    Args:
        lane: Address of its dedicated cache lane, a URL without password that may hold `{region}`; empty: it has none (yet).
    """

    tier: Tier
    uid: str
    generation: int
    lane: str = ""

    @property
    def content_hash(self) -> str:
        """Digest of the tier's canonical spec, as `sha256:<hex>`."""
        return self.tier.content_hash


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker's word on what it enforces.

    Args:
        revision: Revision of the tiers that every request of this worker now meets; 0 before the first load.
        at_milliseconds: Redis time of the report, since the epoch.
        ready: Whether the worker takes traffic.
        deciding: Whether the region's Redis decides limits for it; otherwise each tier's `onStoreLoss` does. Older workers do not say.
    """

    revision: int
    at_milliseconds: int
    ready: bool
    deciding: bool = True


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _load(text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as ex:
        raise InvalidDocumentError(f"not JSON: {ex}") from ex
    if not isinstance(value, dict):
        raise InvalidDocumentError("not a JSON object")
    return value


def encode_tier(document: TierDocument) -> str:
    """The text stored in the hash `keys.TIERS`."""
    fields = {"uid": document.uid, "generation": document.generation, "hash": document.content_hash, "spec": document.tier.to_spec()}
    return _dump(fields | ({"lane": document.lane} if document.lane else {}))


def decode_tier(name: str, text: bytes | str) -> TierDocument:
    """The document of tier `name`.

    Raises:
        InvalidDocumentError: It is not what `encode_tier` writes, or its spec breaks a rule.
    """
    value = _load(text)
    try:
        tier = Tier.from_spec(name, value["spec"])
        return TierDocument(tier, str(value["uid"]), int(value["generation"]), str(value.get("lane", "")))
    except (KeyError, TypeError, ValueError, OverflowError, InvalidTierError) as ex:
        raise InvalidDocumentError(f"tier {name}: {ex}") from ex


def encode_heartbeat(heartbeat: Heartbeat) -> str:
    """The text stored in the hash `keys.WORKERS`."""
    return _dump(
        {"revision": heartbeat.revision, "at": heartbeat.at_milliseconds, "ready": heartbeat.ready, "deciding": heartbeat.deciding}
    )


def decode_heartbeat(text: bytes | str) -> Heartbeat:
    """A worker's report.

    Raises:
        InvalidDocumentError: It is not what `encode_heartbeat` writes.
    """
    value = _load(text)
    try:
        return Heartbeat(int(value["revision"]), int(value["at"]), bool(value["ready"]), bool(value.get("deciding", True)))
    except (KeyError, TypeError, ValueError, OverflowError) as ex:
        raise InvalidDocumentError(f"heartbeat: {ex}") from ex
