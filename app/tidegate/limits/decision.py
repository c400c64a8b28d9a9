"""What is asked of the limits and what they answer; made by the adapter and the middleware, read by fields, problems and usage."""

from dataclasses import dataclass

from tidegate.contract.tier import Unit, Window


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one request weighs before it runs: `cost` after the tier's cost rules, `request_bytes` of its body."""

    cost: int = 1
    request_bytes: int = 0

    def of(self, unit: Unit) -> tuple[int, int]:
        """How much of `unit` must still fit, and how much is charged if everything fits."""
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


@dataclass(frozen=True, slots=True)
class WindowState:
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


@dataclass(frozen=True, slots=True)
class Decision:
    """All windows of a tier, decided at one instant.

    Args:
        granted: Every window had room, and every window was charged; otherwise none was.
        windows: States in the tier's order.
        violated: Names of the windows without room.
        retry_after_seconds: From when this same request could pass; a request that costs more than a limit never
            will, and gets the time after which that window is empty. 0 when granted.
    """

    granted: bool
    windows: tuple[WindowState, ...]
    violated: tuple[str, ...]
    retry_after_seconds: float
