"""What the limits raise; `problems.py` turns them into answers."""

from tidegate.contract.errors import TidegateError
from tidegate.limits.decision import Decision


class QuotaExceededError(TidegateError):
    """The client spent its quota; `decision` says which windows refused and when to come back."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"the quota is spent: {', '.join(decision.violated)}")
        self.decision = decision


class NeverFitsError(TidegateError):
    """One request is larger than a whole limit of its tier: it can never pass, and waiting is of no use. `windows` names the limits."""

    def __init__(self, windows: tuple[str, ...]) -> None:
        super().__init__(f"this request alone exceeds what the tier allows in: {', '.join(windows)}")
        self.windows = windows


class LimitStoreUnavailableError(TidegateError):
    """The region's Redis did not decide: away, too slow, out of memory or read-only. Whether it charged is unknown."""
