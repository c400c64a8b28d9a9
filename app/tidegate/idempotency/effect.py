"""The one effect that a mutation may have outside of the store: claimed before it, reconciled after a crash; called by `middleware.py`.

A handler carries it out through `req.context.effect`.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog

from tidegate.idempotency.errors import ClaimLostError, DeterminateError, OutcomeUnknownError
from tidegate.idempotency.fault_points import FaultPoint, Reached
from tidegate.idempotency.journal import Found, Journal
from tidegate.idempotency.measures import ClaimEvent
from tidegate.idempotency.record import Claim
from tidegate.store.base import Conflict
from tidegate.store.errors import StoreUnavailableError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

RENEWALS = 5
"""In the time of a lease: two may fail at a store that takes its whole deadline to say so, and the third is still in time."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EffectId:
    """What the outside world is told, so that it can tell a repetition from a new wish.

    Args:
        id: The same for every attempt at one mutation, in all regions: 32 hexadecimal digits.
        fencing: Grows with every owner: whoever carries effects out should refuse a lower number than it has seen for this id.
    """

    id: str
    fencing: int


class Effect:
    """The effect of one run of the mutation `name`, of which the store knew `found`.

    `async with` renews the claim until the mutation is over and, unless it was `settled`, leaves its outcome unknown. What happens to the
    claim is counted in `counts`.
    """

    def __init__(
        self,
        journal: Journal,
        name: str,
        make_id: Callable[[], str],
        fingerprint: bytes,
        found: Found,
        counts: MutableMapping[ClaimEvent, int],
        reached: Reached,
    ) -> None:
        self._journal = journal
        self._name = name
        self._make_id = make_id
        self._id = ""
        self._fingerprint = fingerprint
        self._found = found
        self._counts = counts
        self._reached = reached
        self._is_asked = False
        self._outcomes: list[Any] = []
        self._refusal: DeterminateError | None = None
        self._claim: Claim | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()
        self._held_until = 0.0
        self.version = found.version
        self.is_settled = False

    @property
    def fencing(self) -> int:
        """Of the claim that is held; 0 without one."""
        return self._claim.fencing if self._claim else 0

    @property
    def is_unknown(self) -> bool:
        """Whether it was begun, and nobody can say how it ended: no answer is final."""
        return self._claim is not None and not self._outcomes and self._refusal is None

    @property
    def is_had(self) -> bool:
        """Whether it was had, as this run of the handler knows."""
        return bool(self._outcomes) and self._is_asked

    @property
    def is_passed_over(self) -> bool:
        """Whether it was had, and this run of the handler, on changed data, does not ask for it any more."""
        return bool(self._outcomes) and not self._is_asked

    def begin_attempt(self) -> None:
        """The handler is about to run, once more if its data had changed: what was done stays done."""
        self._is_asked = False

    async def carry_out(
        self,
        perform: Callable[[EffectId], Awaitable[T]],
        reconcile: Callable[[EffectId], Awaitable[T | None]] | None = None,
    ) -> T:
        """Have the effect once, and give its outcome; a handler that runs again is given the same.

        Args:
            perform: Has the effect. It fails with a `DeterminateError` if there is none and never will be; after any other error the
                outcome is unknown, and the next retry reconciles.
            reconcile: Finds the outcome of an earlier attempt; None, if there was none and a late one with a lower fencing number will be
                refused. Without it, only an operator can resolve an unknown outcome. It is asked after an operator's finding, too.

        Raises:
            ClaimLostError: Somebody else has claimed the mutation.
            OutcomeUnknownError: An earlier attempt may have had the effect, and there is no `reconcile`.
            StoreUnavailableError: The claim is not durable.
            TypeError: The handler carries out a second effect.
        """
        if self._is_asked:
            raise TypeError("a mutation carries out one effect: a second would not be told from the first when it is reconciled")
        self._is_asked = True
        if self._refusal:
            raise self._refusal
        if not self._outcomes:
            try:
                self._outcomes.append(await self._outcome(perform, reconcile))
            except DeterminateError as ex:
                self._refusal = ex
                raise
            self._reached(FaultPoint.EFFECT_DONE)
        outcome: T = self._outcomes[0]
        return outcome

    async def _outcome(self, perform: Callable[[EffectId], Awaitable[T]], reconcile: Callable[[EffectId], Awaitable[T | None]] | None) -> T:
        earlier = self._found.record if isinstance(self._found.record, Claim) else None
        # A later version of the API may route the same request otherwise: the outside world knows the effect by the first attempt's id.
        self._id = earlier.effect_id if earlier else self._make_id()
        is_unknown = earlier is not None and not earlier.is_absent
        if is_unknown and reconcile is None:
            raise OutcomeUnknownError("an earlier attempt may have had its effect, and nothing can tell")
        effect_id = EffectId(self._id, await self._take(earlier))
        if earlier is not None and reconcile is not None:
            # Also where an operator found no effect: one may have been on its way.
            found = await reconcile(effect_id)
            self._reached(FaultPoint.RECONCILED)
            self._counts["absent" if found is None else "found"] += 1
            log.info("outcome reconciled", effect_id=self._id, fencing=effect_id.fencing, found=found is not None)
            if found is not None:
                return found
        if time.monotonic() >= self._held_until:
            # Asleep for too long (a stopped process, a starved one): somebody else may be at it (W5).
            raise ClaimLostError("the lease of the claim ran out before the effect was begun")
        return await perform(effect_id)

    async def _take(self, earlier: Claim | None) -> int:
        fencing = earlier.fencing + 1 if earlier else 1
        claim = Claim(
            fingerprint=self._fingerprint, effect_id=self._id, owner=secrets.token_hex(8), fencing=fencing, started_at=time.time()
        )
        asked_at = time.monotonic()
        taken = await self._journal.claim(self._name, claim, version=self.version)
        if isinstance(taken, Conflict):
            raise ClaimLostError("somebody else has claimed this mutation")
        self._claim, self.version, self._held_until = claim, taken.version, asked_at + self._journal.lease_seconds
        self._counts["taken_over" if earlier else "taken"] += 1
        self._renewal = asyncio.create_task(self._renew())
        self._reached(FaultPoint.CLAIMED)
        return fencing

    async def _renew(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), self._journal.lease_seconds / RENEWALS)
                return
            asked_at = time.monotonic()
            try:
                if isinstance(await self._journal.renew(self._name, version=self.version), Conflict):
                    # Lost: the commit of the result will find the same, and nothing is answered that is not so (IDEM-13).
                    self._held_until = 0.0
                    return
                self._held_until = asked_at + self._journal.lease_seconds
            except StoreUnavailableError as ex:
                log.warning("a claim could not be renewed", effect_id=self._id, reason=str(ex))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not by cancellation: a client may lose one that meets a call in flight. A call ends by its own deadline.
        self._is_over.set()
        if self._renewal:
            await self._renewal
        if self._claim and not self.is_settled:
            event: ClaimEvent = "unknown"
            try:
                # The next retry need not wait for the lease to run out.
                if isinstance(await self._journal.release(self._name, self._claim, version=self.version), Conflict):
                    event = "lost"
            except StoreUnavailableError as ex:
                log.warning("a claim could not be released; it is free when its lease ends", effect_id=self._id, reason=str(ex))
            self._counts[event] += 1
