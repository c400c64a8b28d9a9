"""What is wanted of a tier: made from an object's spec by both entry points, carried out by the reconciler."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidegate.contract.codec import TierDocument
from tidegate.contract.errors import InvalidTierError, Violation
from tidegate.contract.tier import Lane, Tier

NOT_ENFORCED = "NotEnforced"


@dataclass(frozen=True, slots=True)
class DesiredTier:
    """A tier as its object or file wants it.

    Args:
        document: What is to be enforced; None while no valid spec was seen, and then the regions are left alone.
        generation: Newest generation seen; differs from the document's while the newest spec is refused.
        violations: Why the newest spec is refused; empty when it was accepted.
        status: The status that the object carries now; None when only the operator itself knows it.
        created: When the object was made (RFC 3339, UTC, whole seconds). Empty where a name has one object at most.
        held_by: Finalizers that hold up the deletion of the object; None while nobody has deleted it.
        resource_version: Of the object as it is described here; grows with every change of it, and over objects.
        observed_at: Monotonic seconds at which this generation was first seen.
    """

    name: str
    uid: str
    generation: int
    document: TierDocument | None
    violations: tuple[Violation, ...] = ()
    status: Mapping[str, Any] | None = None
    created: str = ""
    held_by: tuple[str, ...] | None = None
    resource_version: int = field(default=0, compare=False)
    observed_at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def last_status(self) -> Mapping[str, Any]:
        """The status before this look, empty when there is none."""
        return self.status or {}

    def supersedes(self, other: "DesiredTier") -> bool:
        """Whether this is a newer generation than `other`, or a newer object of its name."""
        if self.uid == other.uid:
            return self.generation > other.generation
        if self.resource_version and other.resource_version:
            return self.resource_version > other.resource_version
        # By the clocks of API servers, which differ.
        return self.created > other.created


@dataclass(frozen=True, slots=True)
class Listing:
    """All wanted tiers by name; only a complete one proves that a tier is gone."""

    tiers: Mapping[str, DesiredTier]
    is_complete: bool


def desired_tier(
    name: str, uid: str, generation: int, spec: object, *, status: Mapping[str, Any] | None = None, created: str = ""
) -> DesiredTier:
    """Read a spec; one that breaks rules yields a tier without a document that carries the violations."""
    try:
        document = TierDocument(Tier.from_spec(name, spec), uid, generation)
    except InvalidTierError as ex:
        return DesiredTier(name, uid, generation, None, ex.violations, status, created)
    return DesiredTier(name, uid, generation, document, (), status, created)


def not_enforced(document: TierDocument) -> tuple[Violation, ...]:
    """The fields that ask for something that this version accepts but does not carry out yet."""
    found = [("spec.cache.lane", document.tier.cache.lane is Lane.DEDICATED and not document.lane)]
    return tuple(Violation(path, NOT_ENFORCED, "is accepted but not enforced by this version") for path, is_asked in found if is_asked)
