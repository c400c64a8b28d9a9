"""What is asked of the limits and what they answer; made by the adapter and the middleware, read by fields, problems and usage."""

from collections.abc import Callable
from typing import NamedTuple

from tidegate.contract.tier import Unit, Window


class Amounts(NamedTuple):
    """What one request weighs.

    Args:
        cost: After the tier's cost rules.
        request_bytes: Size of its body.
        response_bytes: Size of a response that is charged after the fact, whatever the limits; None before the request runs.
    """

    cost: int = 1
    request_bytes: int = 0
    response_bytes: int | None = None

    @property
    def is_charge(self) -> bool:
        """Whether this charges a response (or, with 0 bytes, only looks) instead of asking for a grant."""
        return self.response_bytes is not None

    def of(self, unit: Unit) -> tuple[int, int]:
        """How much of `unit` must still fit, and how much is charged if everything fits."""
        if self.response_bytes is not None:
            return 0, self.response_bytes if unit is Unit.RESPONSE_BYTES else 0
        match unit:
            case Unit.REQUESTS:
                return 1, 1
            case Unit.COST:
                return self.cost, self.cost
            case Unit.REQUEST_BYTES:
                return self.request_bytes, self.request_bytes
            case Unit.RESPONSE_BYTES:
                # The size is known only afterwards: there must be room for one byte, and the next request pays (VEC-2).
                return 1, 0


class WindowState(NamedTuple):
    """One window after the decision.

    Args:
        window: The window, as the tier has it.
        used: Units counted now; above the limit after a lowered limit or a large response.
        reset_seconds: Until more quota is available, because the oldest counted usage leaves; 0 when nothing is used.
    """

    window: Window
    used: int
    reset_seconds: float

    @property
    def remaining(self) -> int:
        """Units left; never negative."""
        return max(0, self.window.limit - self.used)


Windows = tuple[WindowState, ...]


class Decision:
    """All windows of a tier, decided at one instant; never changed.

    Args:
        granted: Every window had room, and every window was charged; otherwise none was.
        read: Gives the states of the windows, in the tier's order; called at most once, for many a decision is never looked at closer.
        violated: Names of the windows without room.
        retry_after_seconds: From when this same request could pass. 0 when granted.
    """

    __slots__ = ("_read", "_windows", "granted", "retry_after_seconds", "violated")

    def __init__(
        self, granted: bool, read: Callable[[], Windows], violated: tuple[str, ...] = (), retry_after_seconds: float = 0.0
    ) -> None:
        self.granted = granted
        self.violated = violated
        self.retry_after_seconds = retry_after_seconds
        self._read = read
        self._windows: Windows | None = None

    @property
    def windows(self) -> Windows:
        """States in the tier's order."""
        if self._windows is None:
            self._windows = self._read()
        return self._windows
