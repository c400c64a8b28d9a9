"""Decides what one region needs for one tier, without I/O; called by the reconciler for every tier and region."""

from dataclasses import dataclass

from tidegate.contract.codec import TierDocument
from tidegate_operator.observation import Stored


@dataclass(frozen=True, slots=True)
class Publish:
    """Write this document."""

    document: TierDocument


@dataclass(frozen=True, slots=True)
class Retire:
    """Remove the tier, provided that its stored uid is still this one."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The region already holds what is wanted, or something newer."""


def plan(desired: TierDocument | None, published: Stored | None) -> Publish | Retire | Nothing:
    """The one step that brings a region from `published` to `desired`; None means that the tier is not there."""
    if desired is None:
        return Nothing() if published is None else Retire(published.name, published.uid)
    if published and (published.document == desired or is_newer(published, desired)):
        return Nothing()
    return Publish(desired)


def is_newer(published: Stored, desired: TierDocument) -> bool:
    """Whether a region holds a newer generation of the same object, which is never rolled back."""
    return published.uid == desired.uid and published.generation > desired.generation
