"""Texts of `RateLimit-Policy`, `RateLimit` and `Retry-After` (draft-ietf-httpapi-ratelimit-headers, RFC 9651).

Called by the middleware for what passed and by `problems.py` for what was refused.
"""

import math
import random
from collections.abc import Sequence

from tidegate.contract.tier import Unit, Window
from tidegate.limits.decision import Decision, WindowState

LARGEST_INTEGER = 10**15 - 1
"""RFC 9651 integers have 15 digits; limits may have 16."""
JITTER = 0.1
"""Clients that were refused together come back up to this share of the wait apart (RL-4)."""

_UNIT_PARAMETER = {
    Unit.REQUESTS: "",  # the default of the draft
    Unit.COST: ';qu="tidegate-cost"',
    Unit.REQUEST_BYTES: ';qu="content-bytes"',
    Unit.RESPONSE_BYTES: ';qu="content-bytes"',
}


def policy_field(windows: Sequence[Window]) -> str:
    """`RateLimit-Policy` of these windows."""
    return ", ".join(
        f'"{window.name}";q={_integer(window.limit)};w={window.period_seconds}{_UNIT_PARAMETER[window.unit]}' for window in windows
    )


class LimitField:
    """`RateLimit` of requests that passed, for these windows; what does not change is worked out once."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._template = ", ".join(f'"{window.name}";r=%d;t=%d' for window in windows)
        self._shorter: list[tuple[int, int, int | None]] = []
        latest: dict[Unit, int] = {}
        for place in sorted(range(len(windows)), key=lambda place: (windows[place].period_seconds, windows[place].limit)):
            window = windows[place]
            self._shorter.append((place, min(window.limit, LARGEST_INTEGER), latest.get(window.unit)))
            latest[window.unit] = place

    def text(self, states: Sequence[WindowState]) -> str:
        """The field's value; no window offers more than a shorter one of its unit lets through (RL-6)."""
        values = [0] * (2 * len(states))
        for place, limit, shorter in self._shorter:
            _, used, reset_seconds = states[place]
            left = limit - used if used < limit else 0
            if shorter is not None and values[2 * shorter] < left:
                left = values[2 * shorter]
            values[2 * place], values[2 * place + 1] = left, math.ceil(reset_seconds)
        return self._template % tuple(values)


def refusal_headers(decision: Decision) -> dict[str, str]:
    """The fields of a refusal: only the violated windows, with what truly remains, and a `Retry-After` in whole seconds."""
    violated = [state for state in decision.windows if state.window.name in decision.violated]
    jitter = random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, hides nothing
    return {
        "RateLimit-Policy": policy_field([state.window for state in decision.windows]),
        "RateLimit": ", ".join(_item(state, state.remaining) for state in violated),
        "Retry-After": str(math.ceil(decision.retry_after_seconds * jitter)),
    }


def _item(state: WindowState, remaining: int) -> str:
    return f'"{state.window.name}";r={_integer(remaining)};t={math.ceil(state.reset_seconds)}'


def _integer(value: int) -> int:
    return min(value, LARGEST_INTEGER)
