"""Runs a new mutation as one transaction with its result, and replays a finished one; placed by `application.py`."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import falcon
from falcon.asgi import Request, Response

from tidegate.contract.errors import TidegateError
from tidegate.idempotency.answer import put, result_of, settle
from tidegate.idempotency.effect import Effect
from tidegate.idempotency.errors import (
    ClaimLostError,
    DeterminateError,
    MutationConflictError,
    OutcomeUnknownError,
)
from tidegate.idempotency.fault_points import FaultPoint, Reached, go_on
from tidegate.idempotency.journal import Found, Journal, unfinished
from tidegate.idempotency.measures import MutationMeasures, Outcome, outcome_of
from tidegate.idempotency.mutation import Mutation
from tidegate.idempotency.record import NOT_FINAL, Result
from tidegate.idempotency.unit_of_work import UnitOfWork
from tidegate.store.base import ABSENT, Conflict

ATTEMPTS = 24
"""Runs of a handler before it is given up: twenty writers of one balance all land, with room to spare."""
LONGEST_PAUSE_SECONDS = 0.1

Render = Callable[[Exception, Request, Response], None]


class TransactionMiddleware:
    """Answers a mutation: with its stored result, or by running its handler and committing its writes and its result at once.

    The last middleware. A handler must have no effect but its unit of work, `req.context.unit_of_work`, and the one it carries out with
    `req.context.effect`: it runs again when what it read has changed.

    Args:
        journal: Where results and data are.
        render: Puts a refusal into a response, as the error handler of the application does.
        maximum_result_bytes: Largest answer that a handler may give.
        measures: Where mutations are counted.
        reached: Told of fault points.
    """

    def __init__(
        self,
        journal: Journal,
        render: Render,
        *,
        maximum_result_bytes: int = 65_536,
        measures: MutationMeasures | None = None,
        reached: Reached = go_on,
    ) -> None:
        self._journal = journal
        self._render = render
        self._measures = measures or MutationMeasures()
        self._maximum_result_bytes = maximum_result_bytes
        self._reached = reached

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Answer the mutation on `req.context.mutation`.

        Raises:
            KeyReusedError: The key belongs to another request.
            KeyExpiredError: Its result is kept no longer.
            MutationInProgressError: It is being carried out elsewhere.
            OutcomeUnknownError: An earlier attempt may have had its effect, and nothing can tell yet; or this one may, but its data changed
                under every attempt.
            MutationConflictError: The data changed under every attempt, and nothing was done.
            StoreUnavailableError: The outcome is unknown; a retry finds out.
        """
        mutation: Mutation | None = req.context.mutation
        if resp.complete or mutation is None:
            return
        effect = Effect(
            self._journal,
            mutation.name,
            mutation.make_effect_id,
            mutation.fingerprint,
            mutation.found,
            self._measures.claims,
            self._reached,
        )
        outcome: Outcome = "failed"
        try:
            outcome = await self._carry_out(mutation, effect, req, resp, params)
        except TidegateError as ex:
            outcome = outcome_of(ex, is_claimed=effect.fencing > 0)
            raise
        finally:
            self._measures.outcomes[outcome] += 1

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Mark the end."""
        if getattr(req.context, "mutation", None) is not None:
            self._reached(FaultPoint.BEFORE_RESPONSE)

    async def _carry_out(self, mutation: Mutation, effect: Effect, req: Request, resp: Response, params: dict[str, Any]) -> Outcome:
        if settle(mutation.found, mutation, resp):
            return "replayed"
        async with effect:
            for attempt in range(ATTEMPTS):
                # What was read with the look-up serves the first attempt; when it has changed since, the next one reads for itself.
                unit = UnitOfWork(self._journal.store, {} if attempt else mutation.found.prefetched)
                self._measures.repeated_runs += attempt > 0
                if outcome := await self._answer(mutation, effect, unit, req, resp, params):
                    return outcome
                await asyncio.sleep(_pause_seconds(attempt))
        if effect.fencing:
            raise OutcomeUnknownError(f"its effect was begun, but the data changed during each of {ATTEMPTS} attempts")
        raise MutationConflictError(f"the data changed during each of {ATTEMPTS} attempts")

    async def _answer(
        self, mutation: Mutation, effect: Effect, unit: UnitOfWork, req: Request, resp: Response, params: dict[str, Any]
    ) -> Outcome | None:
        req.context.unit_of_work, req.context.effect = unit, effect
        effect.begin_attempt()
        draft = type(resp)(options=resp.options)
        try:
            result = await self._run(mutation, effect, unit, req, draft, params)
        except ClaimLostError:
            return self._yield_to(await self._journal.look_up(mutation.name), mutation, resp)
        # A failure of ours or a transient refusal says nothing about the next attempt: it is answered and forgotten (IDEM-10).
        outcome = _outcome(result.status, effect)
        if outcome == "outcome_unknown":
            raise OutcomeUnknownError("its effect was begun, but the handler answers without its outcome")
        if outcome == "done":
            conflict = await self._commit(mutation, effect, unit, result, req.context.tier.retention_seconds)
            if conflict:
                is_taken = not unfinished(mutation.name, ABSENT).keys().isdisjoint(conflict.keys)
                return self._yield_to(await self._journal.look_up(mutation.name), mutation, resp) if is_taken else None
        put(result, resp, draft.headers)
        return outcome

    async def _run(
        self, mutation: Mutation, effect: Effect, unit: UnitOfWork, req: Request, draft: Response, params: dict[str, Any]
    ) -> Result:
        try:
            await mutation.responder(req, draft, **params)
        except falcon.HTTPStatus as ex:
            draft.status, draft.text = ex.status, ex.text
            draft.set_headers(ex.headers or {})
        except (DeterminateError, falcon.HTTPError) as ex:
            unit.discard_writes()
            self._render(ex, req, draft)
            if effect.is_had and draft.status_code < 500:
                raise TypeError(f"{req.uri_template}: a mutation cannot be refused after its effect, whose outcome would be lost") from ex
        return await result_of(draft, mutation.fingerprint, str(req.uri_template), maximum_bytes=self._maximum_result_bytes)

    async def _commit(
        self, mutation: Mutation, effect: Effect, unit: UnitOfWork, result: Result, retention_seconds: int
    ) -> Conflict | None:
        end = self._journal.finish(
            mutation.name,
            result,
            fencing=effect.fencing,
            retention_seconds=retention_seconds,
            tombstone_seconds=mutation.tombstone_seconds,
        )
        # A claim of somebody else's attempt is not ours to end: a handler that took none commits against "nothing is known".
        version = effect.version if effect.fencing else ABSENT
        self._reached(FaultPoint.BEFORE_COMMIT)
        outcome = await unit.commit(unfinished(mutation.name, version), end)
        if isinstance(outcome, Conflict):
            return outcome
        effect.is_settled = True
        self._reached(FaultPoint.AFTER_COMMIT)
        return None

    @staticmethod
    def _yield_to(found: Found, mutation: Mutation, resp: Response) -> Outcome | None:
        if settle(found, mutation, resp):
            return "replayed"
        if found.record is not None:
            raise OutcomeUnknownError("another attempt claimed this mutation and may have had its effect")
        return None


def _outcome(status: int, effect: Effect) -> Outcome:
    if status >= 500:
        return "failed"
    if effect.is_unknown or effect.is_passed_over:
        # Whatever the handler made of it: the next retry finds out, and nobody may be told otherwise.
        return "outcome_unknown"
    return "refused" if status in NOT_FINAL else "done"


def _pause_seconds(attempt: int) -> float:
    # Full jitter: contenders that collided once spread out.
    return random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.002 * 2**attempt))  # noqa: S311 - spreads load, hides nothing
