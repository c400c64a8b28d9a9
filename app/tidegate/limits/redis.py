"""The limiter on the region's Redis or Valkey: one script call for all who ask meanwhile; made by `application.py`."""

import asyncio
import struct
import time
from collections.abc import Sequence
from functools import partial
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

GRACE_SECONDS = 0.005
"""Added to an overdue decision's time: if this worker stood still, the answer is here, but not read yet."""
LOOK = Amounts(response_bytes=0)

Caller = asyncio.Future[Decision]
Tids = tuple[str, ...]


class RedisLimiter:
    """Decides on usage vectors in `redis`, a client with explicit timeouts and no retries (a repeated script charges twice, W11).

    `tids` is the identity's pseudonym and, while the key of pseudonyms is replaced, the one under the other key, where its vector may be.
    Every method raises `LimitStoreUnavailableError` when Redis does not answer in time or refuses.
    """

    def __init__(self, redis: Redis, *, deadline_seconds: float = 1.0) -> None:
        self._script = redis.register_script(resources.files(__package__).joinpath("decide.lua").read_text())
        self._deadline_seconds = deadline_seconds
        self._commit: GroupCommit[Caller] = GroupCommit()
        self._denials = DenialMemory()
        self._circuit = Circuit()
        self._is_flush_due = False
        self._flights: set[asyncio.Task[None]] = set()
        self._is_lost = False
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

    async def aclose(self) -> None:
        """Fail whoever waits, and end what is under way; the client stays open."""
        _fail(self._commit.drain(), "this worker stops")
        for task in self._flights:
            task.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)

    def _submit(self, tids: Tids, policy: Policy, amounts: Amounts) -> Caller:
        now = time.monotonic()
        if not self._circuit.allows(now):
            raise LimitStoreUnavailableError("the region's Redis is lost")
        loop = asyncio.get_running_loop()
        caller: Caller = loop.create_future()
        self._commit.add(tids, policy, amounts, caller, now=now)
        if not self._is_flush_due:
            self._is_flush_due = True
            loop.call_soon(self._flush)
        return caller

    def _flush(self) -> None:
        self._is_flush_due = False
        while batch := self._commit.take():
            flight = _Flight(batch)
            task = asyncio.create_task(self._send(flight))
            self._flights.add(task)
            task.add_done_callback(partial(self._end, flight))

    def _end(self, flight: "_Flight", task: asyncio.Task[None]) -> None:
        self._flights.discard(task)
        if task.cancelled():
            self._lose(flight, "this worker stops")
        elif error := task.exception():
            log.error("a batch ended unexpectedly", exc_info=error)
            self._lose(flight, "unexpected error")

    async def _send(self, flight: "_Flight") -> None:
        asked_at = time.monotonic()
        # Not by cancellation: what is slow may be the connecting, which must be allowed to come to an end or there never is a connection.
        flight.timer = asyncio.get_running_loop().call_later(self._deadline_seconds, self._expire, flight)
        try:
            reply = await self._script(keys=key_names(flight.runs), args=arguments(flight.runs))
            found = list(answers(flight.runs, reply))
        except (RedisError, OSError, TimeoutError) as ex:
            self._lose(flight, _reason(ex))
        except (struct.error, TypeError, ValueError) as ex:
            log.error("the script's reply cannot be read", reason=str(ex))
            self._lose(flight, "its reply cannot be read")
        else:
            self._land(flight, found, asked_at)
        finally:
            flight.timer.cancel()

    def _expire(self, flight: "_Flight") -> None:
        flight.timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._lose, flight, "no answer in time")

    def _land(self, flight: "_Flight", found: Sequence[Answer], asked_at: float) -> None:
        if flight.is_over:
            return
        flight.is_over = True
        self._commit.land()
        self._circuit.close()
        for run, answer in zip(flight.runs, found, strict=True):
            self._settle(run, answer, asked_at)
        # A refusal charges nothing, so it does not show that a full or read-only Redis takes writes again.
        if self._is_lost and any(answer.granted and not run.amounts.is_charge for run, answer in zip(flight.runs, found, strict=True)):
            self._is_lost = False
            log.warning("limits are decided again")
        _fail(self._commit.drain_older(time.monotonic() - self._deadline_seconds), "no turn at the region's Redis in time")
        self._flush()

    def _lose(self, flight: "_Flight", reason: str) -> None:
        if flight.is_over:
            return
        flight.is_over = True
        self._commit.land()
        self._circuit.open(time.monotonic())
        if not self._is_lost:
            self._is_lost = True
            log.warning("limits are not decided", reason=reason)
        # Whoever waits would only wait for the same.
        _fail([*flight.runs, *self._commit.drain()], f"the region's Redis did not decide: {reason}")

    def _settle(self, run: Run[Caller], answer: Answer, asked_at: float) -> None:
        if answer.is_broken:
            _fail([run], "the key of the usage vector holds something else")
            return
        if answer.is_unknown and not self._has_seen_unknown:
            self._has_seen_unknown = True
            log.warning("usage vector of unknown form ignored", tier=run.policy.tier.name)
        # Whoever left meanwhile leaves a grant to the next.
        waiting = [caller for caller in run.callers if not caller.done()]
        granted = Decision(True, answer.read)
        for caller in waiting[: answer.granted]:
            caller.set_result(granted)
        if answer.granted < len(run.callers):
            refused = _refusal(run.policy, answer)
            self._denials.remember(run.tids[0], run.policy, run.amounts, refused, asked_at=asked_at)
            for caller in waiting[answer.granted :]:
                caller.set_result(refused)


class _Flight:
    """A batch under way; over when it was answered, or given up and whatever still comes of it ignored."""

    __slots__ = ("is_over", "runs", "timer")
    timer: asyncio.TimerHandle

    def __init__(self, runs: list[Run[Caller]]) -> None:
        self.runs = runs
        self.is_over = False


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
