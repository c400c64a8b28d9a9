"""Plain counts of what becomes of mutations and claims; counted by `middleware.py` and `effect.py`, read by `metrics.py`."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, get_args

from tidegate.idempotency.errors import (
    InvalidRecordError,
    KeyExpiredError,
    KeyReusedError,
    MutationConflictError,
    MutationInProgressError,
    OutcomeUnknownError,
    ResultTooLargeError,
)
from tidegate.store.errors import StoreRefusedError, StoreUnavailableError

Outcome = Literal["done", "replayed", "refused", "reused", "expired", "in_progress", "outcome_unknown", "conflict", "unavailable", "failed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""What may become of a mutation: `docs/metrics.md` says what each means."""
ClaimEvent = Literal["taken", "taken_over", "found", "absent", "unknown", "lost"]
CLAIM_EVENTS: tuple[ClaimEvent, ...] = get_args(ClaimEvent)
"""What may happen to a claim: `docs/metrics.md` says what each means."""

_OUTCOMES: Mapping[type[Exception], Outcome] = {
    KeyReusedError: "reused",
    KeyExpiredError: "expired",
    MutationInProgressError: "in_progress",
    OutcomeUnknownError: "outcome_unknown",
    MutationConflictError: "conflict",
    StoreUnavailableError: "unavailable",
    StoreRefusedError: "failed",
    InvalidRecordError: "failed",
    ResultTooLargeError: "failed",
}


class MutationMeasures:
    """Of one worker, since its start."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[Outcome, int] = defaultdict(int)
        self.repeated_runs = 0
        """Runs of handlers beyond the first, because what they had read was changed meanwhile."""
        self.claims: defaultdict[ClaimEvent, int] = defaultdict(int)


def outcome_of(error: Exception, *, is_claimed: bool) -> Outcome:
    """The outcome of a mutation that ended with a declared `error`.

    Args:
        error: Why it is not answered.
        is_claimed: An effect outside was begun, so that the handler has not merely refused.
    """
    for kind in type(error).__mro__:
        if kind in _OUTCOMES:
            return _OUTCOMES[kind]
    return "failed" if is_claimed else "refused"
