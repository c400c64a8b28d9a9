"""The points at which a worker may die in the middle of a mutation (IDEM-15); reached by `middleware.py` and `effect.py`."""

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """A moment between two steps; the chaos tests end the process at each of them, and so does the world."""

    LOOKED_UP = "looked_up"
    CLAIMED = "claimed"
    RECONCILED = "reconciled"
    EFFECT_DONE = "effect_done"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    BEFORE_RESPONSE = "before_response"


Reached = Callable[[FaultPoint], None]


def go_on(point: FaultPoint) -> None:
    """What is done at a point where nobody wants a fault: nothing."""
