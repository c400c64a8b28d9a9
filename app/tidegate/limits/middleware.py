"""Charges every request to its tier's windows before it runs, and says what is left; placed by `application.py`."""

from collections.abc import Awaitable
from typing import Any, Protocol

import structlog
from falcon.asgi import Request, Response

from tidegate.contract.keys import replays_of
from tidegate.contract.tier import Enforcement, OnStoreLoss, Tier
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.errors import LimitStoreUnavailableError, NeverFitsError, QuotaExceededError
from tidegate.limits.local import LocalLimiter
from tidegate.limits.measures import Measures
from tidegate.limits.policy import policy_of

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Limiter(Protocol):
    """The part of `RedisLimiter` that requests need; both methods may raise `LimitStoreUnavailableError`."""

    def decide(self, tids: tuple[str, ...], tier: Tier, amounts: Amounts) -> Awaitable[Decision]:
        """Charge every window or none."""

    async def charge(self, tids: tuple[str, ...], tier: Tier, *, response_bytes: int) -> Decision:
        """Charge a response afterwards."""


def replay_tier(replays_per_minute: int) -> Tier:
    """The limits of repeated mutations: dear enough that nobody is flooded with them, and apart from everybody's quota (PIPE-3)."""
    return Tier.from_spec("replay", {"windows": [{"name": "replay", "limit": replays_per_minute, "period": "1m"}]})


class LimitsMiddleware:
    """Leaves the `Decision` on `req.context.decision`: None where limits do not apply or, with `onStoreLoss: Open`, cannot.

    Where limits apply, `req.context.cost` is what the request costs after the tier's cost rules.

    A tier in Shadow is counted as if it were enforced; refusals are only logged, and no fields promise anything.
    Without Redis the tier's `onStoreLoss` decides, Open for one in Shadow, and the response says which way in `Tidegate-Limits`.
    A repeated mutation (`req.context.is_repetition`) is charged to the identity's replays alone.

    Args:
        limiter: Decides.
        local: Decides while that one cannot.
        replays: The limits of repeated mutations.
        measures: Where decisions are counted.
    """

    def __init__(self, limiter: Limiter, local: LocalLimiter, replays: Tier, measures: Measures | None = None) -> None:
        self._limiter = limiter
        self._local = local
        self._replays = replays
        self._decisions = (measures or Measures()).decisions

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Charge the request.

        Raises:
            QuotaExceededError: A window has no room for it.
            NeverFitsError: A window never will.
            LimitStoreUnavailableError: Redis does not decide, and the tier is not to be served unlimited.
        """
        req.context.decision = None
        if resp.complete or getattr(resource, "public", False) or not getattr(resource, "rate_limited", True):
            return
        decision = req.context.decision = await self._decide(req)
        if decision is None or decision.granted:
            return
        if self._charged(req)[1].enforcement is Enforcement.ENFORCE:
            raise QuotaExceededError(decision)
        log.info("shadow refusal", request_id=req.context.request_id, tid=req.context.tids[0], violated=decision.violated)

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Charge the response's bytes where a window counts them, and set the RateLimit fields of a request that passed."""
        decision: Decision | None = getattr(req.context, "decision", None)
        if store_loss := getattr(req.context, "store_loss", None):
            resp.set_header("Tidegate-Limits", store_loss.lower())
        if decision is None:
            return
        _, tier = self._charged(req)
        is_enforced = tier.enforcement is Enforcement.ENFORCE
        if is_enforced and not decision.granted:
            return
        policy = policy_of(tier)
        if policy.counts_responses and decision.granted:
            decision = await self._charge(req, resp) or decision
        if is_enforced:
            resp.set_header("RateLimit-Policy", policy.policy_field)
            resp.set_header("RateLimit", policy.limit_field.text(decision.windows))

    def _charged(self, req: Request) -> tuple[tuple[str, ...], Tier]:
        tids: tuple[str, ...] = req.context.tids
        if getattr(req.context, "is_repetition", False):
            return tuple(map(replays_of, tids)), self._replays
        return tids, req.context.tier

    async def _decide(self, req: Request) -> Decision | None:
        tids, tier = self._charged(req)
        policy = policy_of(tier)
        amounts = Amounts(policy.cost(req.method, req.uri_template or ""), len(req.context.body))
        req.context.cost = amounts.cost
        is_enforced = tier.enforcement is Enforcement.ENFORCE
        outcome = "failed"
        try:
            if (exceeded := policy.exceeded_by(amounts)) and is_enforced:
                outcome = "never_fits"
                raise NeverFitsError(exceeded)
            decision = await self._limiter.decide(tids, tier, amounts)
            outcome = "granted" if decision.granted else "refused" if is_enforced else "shadow_refused"
            return decision
        except LimitStoreUnavailableError:
            choice = tier.on_store_loss if is_enforced else OnStoreLoss.OPEN
            if choice is OnStoreLoss.CLOSED:
                raise
            req.context.store_loss = choice
            alone = None if choice is OnStoreLoss.OPEN else self._local.decide(tids[0], tier, amounts)
            outcome = "open" if alone is None else "local_granted" if alone.granted else "local_refused"
            return alone
        finally:
            self._decisions[tier.name, outcome] += 1

    async def _charge(self, req: Request, resp: Response) -> Decision | None:
        (tids, tier), response_bytes = self._charged(req), await _response_bytes(req, resp)
        try:
            if getattr(req.context, "store_loss", None) is OnStoreLoss.LOCAL:
                return self._local.decide(tids[0], tier, Amounts(response_bytes=response_bytes))
            return await self._limiter.charge(tids, tier, response_bytes=response_bytes)
        except LimitStoreUnavailableError:
            # The work is done and its answer is owed; the bytes go uncounted.
            return None


async def _response_bytes(req: Request, resp: Response) -> int:
    if req.method == "HEAD":
        return 0
    if resp.stream is not None:
        # Not read yet: its declared length is all there is to know.
        return int(resp.get_header("Content-Length") or 0)
    return len(await resp.render_body() or b"")
