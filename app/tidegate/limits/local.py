"""Limits without Redis, each worker for its share; used by `middleware.py` for tiers whose `onStoreLoss` is Local, while Redis is lost.

The rules are those of the vector, in this worker's memory. Since the shares of a region's workers sum to the limit, the region admits no
more than the limit during the loss; what Redis had counted before is not known here, and what is counted here Redis will not know.
"""

import time
from collections.abc import Callable

from tidegate.contract.tier import Tier
from tidegate.limits import vector
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.vector import Ask, Outcome, shapes_of

CAPACITY = 50_000
"""Identities; some 15 MB. Others are refused: forgetting one would refill it."""


class LocalLimiter:
    """Decides on its own share of every limit.

    Args:
        workers: How many workers of the region there were when it was last known; this one included.
        clock: Microseconds since the epoch.
    """

    def __init__(self, workers: Callable[[], int], *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._workers = workers
        self._clock = clock
        self._vectors: dict[str, bytes] = {}

    def decide(self, tid: str, tier: Tier, amounts: Amounts) -> Decision:
        """Charge `amounts` to every window of `tier` if all have room in this worker's share, else to none; a response always.

        Raises:
            LimitStoreUnavailableError: The share of a limit is less than one unit, or there are too many identities.
        """
        asks = _shares(tier, amounts, max(1, self._workers()))
        if any(ask.limit == 0 for ask in asks):
            raise LimitStoreUnavailableError("this worker's share of a limit is less than one")
        if len(self._vectors) >= CAPACITY and tid not in self._vectors:
            raise LimitStoreUnavailableError("no room to count another identity in this worker")
        outcome = vector.decide(self._vectors.get(tid), asks, self._clock(), count=0 if amounts.is_charge else 1)
        if outcome.vector:
            self._vectors[tid] = outcome.vector
        return _decision(tier, asks, outcome, is_granted=amounts.is_charge or outcome.granted == 1)

    def forget(self) -> None:
        """Redis counts again."""
        self._vectors.clear()


def _shares(tier: Tier, amounts: Amounts, workers: int) -> list[Ask]:
    pairs = zip(shapes_of(tier.windows), tier.windows, strict=True)
    return [Ask(shape, window.limit // workers, *amounts.of(window.unit)) for shape, window in pairs]


def _decision(tier: Tier, asks: list[Ask], outcome: Outcome, *, is_granted: bool) -> Decision:
    readings = list(zip(tier.windows, asks, outcome.readings, strict=True))
    # What is left is what this worker has left, so the used of the others counts as used.
    windows = tuple(WindowState(window, window.limit - ask.limit + reading.used, reading.reset / 1e6) for window, ask, reading in readings)
    if is_granted:
        return Decision(True, lambda: windows)
    violated = tuple(window.name for window, _, reading in readings if reading.wait)
    return Decision(False, lambda: windows, violated, max(reading.wait for reading in outcome.readings) / 1e6)
