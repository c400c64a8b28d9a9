"""Which store this is: the mark that it carries, and what to make of it beside the one that a region remembers; called by `trust.py`."""

import secrets
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

from tidegate.store.errors import StoreMisconfiguredError

_DISPUTED = "disputed"


@dataclass(frozen=True, slots=True)
class Incarnation:
    """A mark.

    Args:
        adoptions: How often somebody has accepted that the store is not the one that it was; every region follows the higher number.
        name: Random, so that no two stores have the same.
    """

    adoptions: int
    name: str

    @classmethod
    def new(cls, adoptions: int = 0) -> Self:
        """A mark that was never used."""
        return cls(adoptions, secrets.token_hex(8))

    def disputed(self) -> Self:
        """What a region that remembers this one writes over another: no region takes it for its own."""
        return type(self)(self.adoptions, _DISPUTED)

    @property
    def is_disputed(self) -> bool:
        """Whether it says of no store which it is."""
        return self.name == _DISPUTED

    def encode(self) -> bytes:
        """The bytes to keep."""
        return f"{self.adoptions}:{self.name}".encode()

    @classmethod
    def decode(cls, kept: bytes) -> Self:
        """The mark in `kept`.

        Raises:
            StoreMisconfiguredError: `encode` did not write it.
        """
        adoptions, _, name = kept.decode("ascii", "replace").partition(":")
        if not (adoptions.isdecimal() and name):
            raise StoreMisconfiguredError("the mark of the consistent store is none: something else writes to it")
        return cls(int(adoptions), name)


class Verdict(Enum):
    """What to do about a store."""

    CREATE = auto()
    """Nobody knows of one: it is new, and so is its mark."""
    TRUST = auto()
    """It is the one, or one that somebody has accepted since."""
    DISPUTE = auto()
    """It is another: tell the regions that remember nothing, and refuse it."""
    REFUSE = auto()
    """It is another, and all know."""


def judge(stored: Incarnation | None, remembered: Incarnation | None) -> Verdict:
    """What to do about a store that carries the mark `stored`, where `remembered` was seen before; None: there is none."""
    if stored is None:
        return Verdict.DISPUTE if remembered else Verdict.CREATE
    if stored.is_disputed:
        return Verdict.REFUSE
    if remembered is None or stored == remembered or stored.adoptions > remembered.adoptions:
        return Verdict.TRUST
    return Verdict.DISPUTE
