"""Refusals that are sure to be repeated, so that a caller who hammers costs Redis nothing; pure, asked by `redis.py`.

Exact: refusals are not charged, and whatever others charge only makes room later, so a refused request cannot pass before the instant
that came with its refusal. The instant is counted from before the question was sent: this clock and that of Redis need not agree.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.limits.decision import Amounts, Decision, Windows
from tidegate.limits.policy import Policy

LONGEST_SECONDS = 1.0
"""Who deletes a vector by hand, to let a customer in again, waits no longer than this for it to show."""
CAPACITY = 16_384
"""Identities, each some 600 bytes with three windows: 10 MB. More that are refused at a time ask Redis."""


@dataclass(frozen=True, slots=True)
class _Denial:
    policy: Policy
    amounts: Amounts
    decision: Decision
    asked_at: float
    until: float


class DenialMemory:
    """The last refusal of each identity; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._denials: dict[str, _Denial] = {}

    def remember(self, key: str, policy: Policy, amounts: Amounts, decision: Decision, *, asked_at: float) -> None:
        """Note a refusal of a request that was sent at `asked_at`."""
        if len(self._denials) >= CAPACITY:
            self._denials.clear()
        until = asked_at + min(decision.retry_after_seconds, LONGEST_SECONDS)
        self._denials[key] = _Denial(policy, amounts, decision, asked_at, until)

    def recall(self, key: str, policy: Policy, amounts: Amounts) -> Decision | None:
        """The refusal that Redis would give now, or None if it might grant. A changed tier has another policy, and is asked about."""
        denial = self._denials.get(key)
        if denial is None:
            return None
        now = self._clock()
        if now >= denial.until:
            del self._denials[key]
            return None
        if denial.policy is not policy or denial.amounts != amounts:
            return None
        return _later(denial.decision, now - denial.asked_at)


def _later(decision: Decision, seconds: float) -> Decision:
    def read() -> Windows:
        return tuple(state._replace(reset_seconds=max(0.0, state.reset_seconds - seconds)) for state in decision.windows)

    return Decision(False, read, decision.violated, decision.retry_after_seconds - seconds)
