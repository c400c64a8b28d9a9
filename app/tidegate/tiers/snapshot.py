"""The worker's view of the tiers at one revision, and how the next one follows from what Redis holds; called by `source.py`. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import structlog

from tidegate.contract.codec import TierDocument, decode_tier
from tidegate.contract.errors import InvalidDocumentError
from tidegate.contract.tier import Tier

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TierSnapshot:
    """All tiers at once; never changed, only replaced.

    Args:
        revision: Newest revision of which every tier is enforced; 0 before the first.
        tiers: The tiers by name.
    """

    revision: int
    tiers: Mapping[str, Tier]


@dataclass(frozen=True, slots=True)
class Documents:
    """The published documents that a snapshot is made of.

    Args:
        revision: As in `TierSnapshot`.
        by_name: The documents by tier name.
        texts: What they were read from; a text that stays is not read again, and its tier stays the same object.
    """

    revision: int = 0
    by_name: Mapping[str, TierDocument] = field(default_factory=lambda: MappingProxyType({}))
    texts: Mapping[str, bytes | str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def snapshot(self) -> TierSnapshot:
        """The tiers alone."""
        tiers = {name: document.tier for name, document in self.by_name.items()}
        return TierSnapshot(self.revision, MappingProxyType(tiers))

    def changed_since(self, before: "Documents") -> list[str]:
        """Names of the tiers that came, went or are others than in `before`."""
        names = self.by_name.keys() | before.by_name.keys()
        return sorted(name for name in names if self.by_name.get(name) is not before.by_name.get(name))

    def follow(self, revision: int, texts: Mapping[str, bytes | str]) -> "Documents":
        """What to enforce once Redis holds `texts` at `revision`.

        A text that cannot be read leaves its tier as it is here, and the revision too: this worker does not enforce the new one whole.
        """
        documents: dict[str, TierDocument] = {}
        read: dict[str, bytes | str] = {}
        enforced = revision
        for name, text in texts.items():
            try:
                documents[name] = self.by_name[name] if self.texts.get(name) == text else decode_tier(name, text)
                read[name] = text
            except (InvalidDocumentError, OverflowError, RecursionError) as ex:
                enforced = self.revision
                log.error("tier document not read", tier=name, revision=revision, keeps_last_good=name in self.by_name, reason=str(ex))
                if name in self.by_name:
                    documents[name] = self.by_name[name]
        return Documents(enforced, MappingProxyType(documents), MappingProxyType(read))
