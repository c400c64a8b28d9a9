"""The limiter on the region's Redis or Valkey: one script call for all who ask meanwhile; made by `application.py`."""

import asyncio
import time
from collections.abc import Sequence
from importlib import resources

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tidegate.contract.tier import Tier
from tidegate.limits.circuit import Circuit
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.denial_memory import DenialMemory
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.group_commit import GroupCommit, Run
from tidegate.limits.policy import Policy, policy_of
from tidegate.limits.wire import Answer, answers, arguments, key_names

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

LOOK = Amounts(response_bytes=0)

Caller = asyncio.Future[Decision]
Tids = tuple[str, ...]


class RedisLimiter:
    """Decides on usage vectors in `redis`, a client with explicit timeouts and no retries (a repeated script charges twice, W11).

    `tids` is the identity's pseudonym and, while the key of pseudonyms is replaced, the one under the other key, where its vector may be.
    Every method raises `LimitStoreUnavailableError` when Redis does not answer in time or refuses.
    """

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(resources.files(__package__).joinpath("decide.lua").read_text())
        self._commit: GroupCommit[Caller] = GroupCommit()
        self._denials = DenialMemory()
        self._circuit = Circuit()
        self._is_flush_due = False
        self._batches: set[asyncio.Task[None]] = set()
        self._has_seen_unknown = False

    async def decide(self, tids: Tids, tier: Tier, amounts: Amounts) -> Decision:
        """Charge `amounts` to every window of `tier` if all have room, else to none."""
        policy = policy_of(tier)
        return self._denials.recall(tids[0], policy, amounts, time.monotonic()) or await self._submit(tids, policy, amounts)

    async def charge(self, tids: Tids, tier: Tier, *, response_bytes: int) -> Decision:
        """Charge a response that was already granted; the windows may pass their limits, and the next request pays."""
        return await self._submit(tids, policy_of(tier), Amounts(response_bytes=response_bytes))

    async def peek(self, tids: Tids, tier: Tier) -> Decision:
        """The state of every window, without a charge."""
        return await self._submit(tids, policy_of(tier), LOOK)

    def _submit(self, tids: Tids, policy: Policy, amounts: Amounts) -> Caller:
        if not self._circuit.allows(time.monotonic()):
            raise LimitStoreUnavailableError("the region's Redis is lost")
        loop = asyncio.get_running_loop()
        caller: Caller = loop.create_future()
        self._commit.add(tids, policy, amounts, caller)
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return caller

    def _flush(self) -> None:
        self._is_flush_due = False
        while batch := self._commit.take():
            task = asyncio.create_task(self._send(batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _send(self, batch: Sequence[Run[Caller]]) -> None:
        asked_at = time.monotonic()
        reason = "the decision was given up"
        try:
            reply = await self._script(keys=key_names(batch), args=arguments(batch))
            self._circuit.close()
            for run, answer in zip(batch, answers(batch, reply), strict=True):
                self._settle(run, answer, asked_at)
        except (RedisError, OSError, TimeoutError) as ex:
            reason = f"the region's Redis did not decide: {_reason(ex)}"
            self._circuit.open(time.monotonic())
        finally:
            # Whatever happened, nobody waits for ever.
            _fail(batch, reason)
            self._commit.landed()
            self._flush()

    def _settle(self, run: Run[Caller], answer: Answer, asked_at: float) -> None:
        if answer.is_broken:
            _fail([run], "the key of the usage vector holds something else")
            return
        if answer.is_unknown and not self._has_seen_unknown:
            self._has_seen_unknown = True
            log.warning("usage vector of unknown form ignored", tier=run.policy.tier.name)
        granted = Decision(True, answer.read)
        for caller in run.callers[: answer.granted]:
            _answer(caller, granted)
        if answer.granted < len(run.callers):
            refused = _refusal(run.policy, answer)
            self._denials.remember(run.tids[0], run.policy, run.amounts, refused, asked_at=asked_at)
            for caller in run.callers[answer.granted :]:
                _answer(caller, refused)


def _answer(caller: Caller, decision: Decision) -> None:
    if not caller.done():  # its client may be gone
        caller.set_result(decision)


def _fail(runs: Sequence[Run[Caller]], reason: str) -> None:
    for run in runs:
        for caller in run.callers:
            if not caller.done():
                caller.set_exception(LimitStoreUnavailableError(reason))


def _refusal(policy: Policy, answer: Answer) -> Decision:
    violated = tuple(window.name for window, wait in zip(policy.windows, answer.waits, strict=True) if wait)
    return Decision(False, answer.read, violated, max(answer.waits))


def _reason(error: Exception) -> str:
    # redis-py has classes for common refusals (OutOfMemoryError). Of others only the first word, the code, is sure to name no key.
    return str(error).split(" ", 1)[0] if type(error) is ResponseError else type(error).__name__
