"""What the caller has used of its limits; wired by `application.py`."""

from typing import Any, Protocol

from falcon.asgi import Request, Response

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Decision, WindowState


class Limiter(Protocol):
    """The part of the limiter that only looks."""

    async def peek(self, tids: tuple[str, ...], tier: Tier) -> Decision:
        """The state of every window, without a charge."""


class Usage:
    """`GET /v1/usage`: the caller's own usage vector; asking costs no quota."""

    rate_limited = False

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer every window of the caller's tier."""
        tier = req.context.tier
        decision = await self._limiter.peek(req.context.tids, tier)
        resp.media = {"tier": tier.name, "windows": [_window(state) for state in decision.windows]}
        resp.cache_control = ("private", "no-store")


def _window(state: WindowState) -> dict[str, Any]:
    window = state.window
    return {
        "name": window.name,
        "unit": str(window.unit),
        "limit": window.limit,
        "used": state.used,
        "remaining": state.remaining,
        "reset_seconds": round(state.reset_seconds, 3),
    }
