"""The tiers that are wanted now and the ones that must go, kept in memory; owned by the reconciler, without I/O."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tidegate.contract.codec import TierDocument
from tidegate_operator.desired import DesiredTier


@dataclass(slots=True)
class Departure:
    """A tier that must leave every region; `held` is its object, where a finalizer keeps that from being gone.

    `uids` fence the removal: those of all objects of its name that were wanted since a tier of that name last left every region.
    """

    uids: frozenset[str]
    is_reported: bool = False
    held: DesiredTier | None = None


class WantedTiers:
    """Tiers and departures by name; a name is in one of both at most."""

    def __init__(self) -> None:
        self.tiers: dict[str, DesiredTier] = {}
        self.departures: dict[str, Departure] = {}
        self._uids: dict[str, frozenset[str]] = {}
        self._touched: dict[str, float] = {}

    def put(self, tier: DesiredTier) -> bool:
        """Want this tier, unless a newer generation or a newer object is wanted; a refused spec keeps the last good document.

        One that is being deleted departs. Returns whether anything is new; what is not is the echo of a status that we wrote.
        """
        self._touched[tier.name] = time.monotonic()
        if tier.held_by is not None:
            self.remove(tier.name, tier.uid, held=tier)
            return True
        known = self.tiers.get(tier.name)
        if known and known.supersedes(tier):
            return False  # nothing orders events with a listing, nor those of two objects: this is how it was before
        return self._take(tier)

    def _take(self, tier: DesiredTier) -> bool:
        known = self.tiers.get(tier.name)
        if known and known.uid == tier.uid:
            tier = _inheriting(tier, known)
            if tier == known:
                return False
        self.departures.pop(tier.name, None)
        self.tiers[tier.name] = tier
        self._note_uid(tier.name, tier.uid)
        return True

    def adopt(self, tier: DesiredTier, document: TierDocument) -> DesiredTier:
        """The last good document of a tier whose newest spec is refused, found in a region after a start."""
        known = self.tiers.get(tier.name)
        if known and known.uid == tier.uid and known.document is None:
            # A status may have been written since, or an edit refused.
            self.tiers[tier.name] = replace(known, document=document)
        return replace(tier, document=document)

    def remove(self, name: str, uid: str, held: DesiredTier | None = None) -> None:
        """Have the object with this uid leave; a newer object of the same name is untouched. `held` is the object, if it is still there."""
        known = self.tiers.get(name)
        if known and known.uid != uid:
            return
        self.tiers.pop(name, None)
        self._touched[name] = time.monotonic()
        uids, departure = self._note_uid(name, uid), self.departures.get(name)
        if departure is None or departure.uids != uids:
            departure = self.departures[name] = Departure(uids)
        departure.held = held or departure.held

    def end(self, name: str, departure: Departure) -> None:
        """The tier left every region; nothing ends where it was wanted again meanwhile, or more must go."""
        if self.departures.get(name) is departure:
            del self.departures[name], self._uids[name]

    def _note_uid(self, name: str, uid: str) -> frozenset[str]:
        self._uids[name] = self._uids.get(name, frozenset()) | {uid}
        return self._uids[name]

    def merge(self, listed: Mapping[str, DesiredTier], *, started: float, is_complete: bool) -> None:
        """Take a listing that began at `started` (monotonic seconds); what an event touched since is newer and stays.

        A complete one decides about all else, also where it shows what looks older: an event may have been lost, or the API server's
        data restored. A tier that it lacks departs.
        """
        since = {name for name, at in self._touched.items() if at >= started}
        take = self._take if is_complete else self.put
        for name, tier in listed.items():
            if name not in since:
                take(tier)
        absent = [tier for name, tier in self.tiers.items() if is_complete and name not in listed and name not in since]
        for tier in absent:
            self.remove(tier.name, tier.uid)
        self._touched = {name: at for name, at in self._touched.items() if at >= started}

    def note_status(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        """Remember the status that was written for `tier`, unless another version of it came meanwhile and brought its own."""
        if self.tiers.get(tier.name) is tier:
            self.tiers[tier.name] = replace(tier, status=status)

    def names(self) -> list[str]:
        """Every name that has something to do."""
        return [*self.tiers, *self.departures]


def _inheriting(tier: DesiredTier, known: DesiredTier) -> DesiredTier:
    if tier.generation == known.generation:
        tier = replace(tier, observed_at=known.observed_at)
    if tier.status is None:
        tier = replace(tier, status=known.status)
    return tier if tier.document else replace(tier, document=known.document)
