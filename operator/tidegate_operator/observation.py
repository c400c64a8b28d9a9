"""What a region showed at one moment: revision, workers, its copy of a tier; made by the publisher, read by watch and status."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tidegate.contract.codec import Heartbeat, TierDocument, decode_tier
from tidegate.contract.errors import InvalidDocumentError

ALIVE_MILLISECONDS = 5_000
"""A worker reports every second; five missed reports are more than a busy event loop explains."""


@dataclass(frozen=True, slots=True)
class RegionView:
    """A region's revision (None: nothing was ever published) and how many of its ready workers enforce exactly that revision.

    `undecided` are the ready workers for which its Redis does not decide limits.
    """

    revision: int | None = None
    ready: int = 0
    applied: int = 0
    undecided: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether some worker is ready and all ready ones enforce the region's revision."""
        return 0 < self.ready == self.applied


@dataclass(frozen=True, slots=True)
class Stored:
    """A region's copy of a tier; `document` is None, `uid` perhaps empty and `generation` 0 when it cannot be read."""

    name: str
    uid: str = ""
    generation: int = 0
    document: TierDocument | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """A region and its copy of one tier; `view` is None when the region did not answer, and then `problem` says why.

    `is_being_filled`: it holds nothing for a moment yet, and nothing follows from that.
    """

    region: str
    view: RegionView | None = None
    stored: Stored | None = None
    problem: str = ""
    is_being_filled: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the region answered and has no revision, or no tier: it is new, or lost its tiers, and its workers keep the last ones."""
        return self.view is not None and self.view.revision is None

    @property
    def document(self) -> TierDocument | None:
        """The copy, if there is one that can be read."""
        return self.stored.document if self.stored else None


def stored_tier(name: str, text: bytes) -> Stored:
    """Read a region's copy as far as it can be read: a newer operator's document may hold more than this one knows."""
    try:
        document = decode_tier(name, text)
    except InvalidDocumentError:
        return _unreadable(name, text)
    return Stored(name, document.uid, document.generation, document)


def region_view(revision: int | None, heartbeats: Iterable[Heartbeat], *, now_milliseconds: int) -> RegionView:
    """Count the ready workers whose last report is fresh by the region's own clock."""
    ready = [beat for beat in heartbeats if beat.ready and abs(now_milliseconds - beat.at_milliseconds) <= ALIVE_MILLISECONDS]
    return RegionView(revision, len(ready), sum(beat.revision == revision for beat in ready), sum(not beat.deciding for beat in ready))


def _unreadable(name: str, text: bytes) -> Stored:
    try:
        uid = json.loads(text).get("uid")
    except (ValueError, AttributeError, RecursionError):
        uid = None
    return Stored(name, uid if isinstance(uid, str) else "")
