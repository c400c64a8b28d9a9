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


def limit_field(states: Sequence[WindowState]) -> str:
    """`RateLimit` of a request that passed; no window offers more than a shorter one of its unit lets through (RL-6)."""
    return ", ".join(_item(state, _offered(state, states)) for state in states)


def refusal_headers(decision: Decision) -> dict[str, str]:
    """The fields of a refusal: only the violated windows, with what truly remains, and a `Retry-After` in whole seconds."""
    violated = [state for state in decision.windows if state.window.name in decision.violated]
    jitter = random.uniform(1, 1 + JITTER)  # noqa: S311 - spreads load, hides nothing
    return {
        "RateLimit-Policy": policy_field([state.window for state in decision.windows]),
        "RateLimit": ", ".join(_item(state, state.remaining) for state in violated),
        "Retry-After": str(math.ceil(decision.retry_after_seconds * jitter)),
    }


def _offered(state: WindowState, states: Sequence[WindowState]) -> int:
    unit, period_seconds = state.window.unit, state.window.period_seconds
    return min(other.remaining for other in states if other.window.unit is unit and other.window.period_seconds <= period_seconds)


def _item(state: WindowState, remaining: int) -> str:
    return f'"{state.window.name}";r={_integer(remaining)};t={math.ceil(state.reset_seconds)}'


def _integer(value: int) -> int:
    return min(value, LARGEST_INTEGER)
