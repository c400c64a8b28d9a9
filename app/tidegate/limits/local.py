"""Limits without Redis, each worker for its share; used by `middleware.py` for tiers whose `onStoreLoss` is Local, while Redis is lost.

The rules are those of the vector, in this worker's memory. The shares of a region's workers sum to the limit, so in any trailing window the
region admits this way no more than the limit, however often Redis goes and comes, while these workers stay the same: one that is restarted
has forgotten. That is beside what Redis admitted in the same window: neither knows of the other's. So nothing is forgotten when Redis is
back; what was counted here leaves with its own windows.
"""

import time
from collections.abc import Callable

from tidegate.contract.tier import Tier
from tidegate.limits import vector
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.shape import shapes_of
from tidegate.limits.vector import Ask, Outcome, charges_of

CAPACITY = 50_000
"""Identities. Others are refused while no counted one has left: forgetting it sooner would refill it."""
ROOM_SECONDS = 1
"""Room is looked for this often: reading every identity takes some milliseconds."""


class LocalLimiter:
    """Decides on its own share of every limit.

    Args:
        workers: How many workers share the region's limits, this one included; 0 if that was never heard.
        clock: Microseconds since the epoch.
    """

    def __init__(self, workers: Callable[[], int], *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._workers = workers
        self._clock = clock
        self._vectors: dict[str, tuple[bytes, int]] = {}
        """Vector, and the instant from which none of it counts."""
        self._look_at = 0

    def decide(self, tid: str, tier: Tier, amounts: Amounts) -> Decision:
        """Charge `amounts` to every window of `tier` if all have room in this worker's share, else to none; a response always.

        Raises:
            LimitStoreUnavailableError: The share of a limit is unknown or less than this request, or there are too many identities: we
                lack capacity, and the client has spent nothing of its quota (RL-5).
        """
        workers, now = self._workers(), self._clock()
        if workers < 1:
            raise LimitStoreUnavailableError("this worker never learned how many share the limits")
        asks = _shares(tier, amounts, workers)
        if any(ask.limit < max(1, ask.check) for ask in asks):
            raise LimitStoreUnavailableError("this worker's share of a limit is less than one such request")
        self._make_room(tid, now)
        held, _ = self._vectors.get(tid, (None, 0))
        outcome = vector.decide(held, asks, now, count=0 if amounts.is_charge else 1, charges=charges_of(amounts))
        if outcome.vector:
            self._vectors[tid] = outcome.vector, now + outcome.expiry_milliseconds * 1000
        return _decision(tier, asks, outcome, is_granted=amounts.is_charge or outcome.granted == 1)

    def _make_room(self, tid: str, now: int) -> None:
        if len(self._vectors) < CAPACITY or tid in self._vectors:
            return
        if now >= self._look_at:
            self._look_at = now + ROOM_SECONDS * 1_000_000
            self._vectors = {known: entry for known, entry in self._vectors.items() if entry[1] > now}
        if len(self._vectors) >= CAPACITY:
            raise LimitStoreUnavailableError("no room to count another identity in this worker")


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
