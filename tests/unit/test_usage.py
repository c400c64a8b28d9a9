"""What a caller is told about their usage."""

from types import SimpleNamespace

from falcon.asgi import Response

from tidegate.contract.tier import Tier
from tidegate.limits.decision import Decision, WindowState
from tidegate.resources.usage import Usage

TIER = Tier.from_spec(
    "free",
    {"windows": [{"name": "second", "limit": 10, "period": "1s"}, {"name": "egress", "limit": 5, "period": "1m", "unit": "ResponseBytes"}]},
)


class FakeLimiter:
    async def peek(self, tids: tuple[str, ...], tier: Tier) -> Decision:
        states = (WindowState(tier.windows[0], 3, 0.25), WindowState(tier.windows[1], 7, 12.3456))
        return Decision(True, lambda: states)


async def test_every_window_is_shown_and_what_remains_is_never_negative():
    """Response bytes are charged afterwards, so `used` may pass the limit (VEC-2)."""
    resp = Response()
    req = SimpleNamespace(context=SimpleNamespace(tier=TIER, tids=("t",)))

    await Usage(FakeLimiter()).on_get(req, resp)

    assert resp.media == {
        "tier": "free",
        "windows": [
            {"name": "second", "unit": "Requests", "limit": 10, "used": 3, "remaining": 7, "reset_seconds": 0.25},
            {"name": "egress", "unit": "ResponseBytes", "limit": 5, "used": 7, "remaining": 0, "reset_seconds": 12.346},
        ],
    }
    assert resp.get_header("Cache-Control") == "private, no-store"
    assert Usage.rate_limited is False
