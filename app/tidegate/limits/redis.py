"""The limiter on the region's Redis or Valkey: one script call for all who ask meanwhile; made by `application.py`."""

import asyncio
import struct
import time
from collections.abc import Awaitable, Generator, Sequence
from functools import partial
from importlib import resources

import structlog
from redis.exceptions import RedisError, ResponseError

from tidegate.connections.cluster import Cluster
from tidegate.connections.connect import RegionalRedis
from tidegate.contract.tier import Tier
from tidegate.limits.channel import Reply, ScriptChannel
from tidegate.limits.circuit import Circuit
from tidegate.limits.cluster_channel import ClusterChannel
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.denial_memory import DenialMemory
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.group_commit import GroupCommit, Run
from tidegate.limits.measures import Measures
from tidegate.limits.policy import Policy, policy_of
from tidegate.limits.wire import Answer, Grant, answers, arguments, key_names

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

GRACE_SECONDS = 0.005
"""Added to an overdue decision's time: if this worker stood still, the answer is here, but not read yet."""
START_SECONDS, RETRY_SECONDS = 2.0, 0.2
"""How long a start waits for a connection, and between tries: a network may let a pod through only when its policies know it."""
LOOK = Amounts(response_bytes=0)

Caller = asyncio.Future[Decision]
Tids = tuple[str, ...]


class RedisLimiter:
    """Decides on usage vectors in `redis`, a client with explicit timeouts, of which it uses connections of its own.

    `tids` is the identity's pseudonym and, while the key of pseudonyms is replaced, the one under the other key, where its vector may be.
    Every method raises `LimitStoreUnavailableError` when Redis does not answer in time or refuses.
    """

    def __init__(
        self,
        redis: RegionalRedis,
        *,
        deadline_seconds: float = 1.0,
        measures: Measures | None = None,
        denials: DenialMemory | None = None,
        shard: int = 0,
    ) -> None:
        script = resources.files(__package__).joinpath("decide.lua").read_text()
        self._channel = _channel_to(redis, script)
        self._deadline_seconds = deadline_seconds
        self._commit: GroupCommit[Caller] = GroupCommit()
        self._denials = denials or DenialMemory()
        self._shard = shard
        self._circuit = Circuit()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_began = 0.0
        self._measures = measures or Measures()
        self._has_seen_unknown = False

    def decide(self, tids: Tids, tier: Tier, amounts: Amounts) -> Awaitable[Decision]:
        """Charge `amounts` to every window of `tier` if all have room, else to none. Await what it returns, or cancel it to leave."""
        # No coroutine: one would cost every decision a tenth more.
        policy = policy_of(tier)
        if remembered := self._denials.recall(tids[0], policy, amounts):
            self._measures.remembered_refusals += 1
            return _Known(remembered)
        return self._submit(tids, policy, amounts)

    async def charge(self, tids: Tids, tier: Tier, *, response_bytes: int) -> Decision:
        """Charge a response that was already granted; the windows may pass their limits, and the next request pays."""
        return await self._submit(tids, policy_of(tier), Amounts(response_bytes=response_bytes))

    async def peek(self, tids: Tids, tier: Tier) -> Decision:
        """The state of every window, without a charge."""
        return await self._submit(tids, policy_of(tier), LOOK)

    async def start(self) -> None:
        """Connect, which takes longer than a decision may: a worker that has just come does not know its share without Redis yet.

        A Redis that is away does not stop a start.
        """
        give_up_at = time.monotonic() + START_SECONDS
        while not await self._channel.open():
            if time.monotonic() > give_up_at:
                break
            await asyncio.sleep(RETRY_SECONDS)

    async def aclose(self) -> None:
        """Fail whoever waits, and end what is under way; the client stays open."""
        _fail(self._commit.drain(), "this worker stops")
        await self._channel.aclose()

    def _submit(self, tids: Tids, policy: Policy, amounts: Amounts) -> Caller:
        if not self._circuit.allows():
            raise LimitStoreUnavailableError("the region's Redis is lost")
        loop = self._loop or self._begin_turn()
        caller: Caller = loop.create_future()
        self._commit.add(tids, policy, amounts, caller, now=self._turn_began)
        return caller

    def _begin_turn(self) -> asyncio.AbstractEventLoop:
        # Once for all who ask in this turn: to ask for the loop that runs is a system call.
        loop = self._loop = asyncio.get_running_loop()
        self._turn_began = time.monotonic()
        loop.call_soon(self._flush)
        return loop

    def _flush(self) -> None:
        self._loop = None
        while batch := self._commit.take():
            asked_at = time.monotonic()
            try:
                reply = self._channel.call(key_names(batch), arguments(batch))
            except Exception:
                # Nobody may wait for ever, nor may the batch count as under way.
                log.exception("a batch was not sent")
                self._commit.land()
                _fail(batch, "unexpected error")
                continue
            flight = _Flight(batch, reply, asked_at)
            flight.timer = asyncio.get_running_loop().call_later(self._deadline_seconds, self._expire, flight)
            flight.reply.add_done_callback(partial(self._end, flight))

    def _expire(self, flight: "_Flight") -> None:
        flight.timer = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._give_up, flight)

    def _give_up(self, flight: "_Flight") -> None:
        if flight.reply.done():
            return  # In this very turn: `_end` is next, and what was granted counts.
        self._lose(flight, "no answer in time")
        flight.reply.cancel()
        self._channel.drop()

    def _end(self, flight: "_Flight", reply: Reply) -> None:
        flight.timer.cancel()
        try:
            self._land(flight, list(answers(flight.runs, reply.result())))
        except (RedisError, asyncio.CancelledError) as ex:
            self._lose(flight, _reason(ex))
        except (struct.error, TypeError, ValueError) as ex:
            log.error("the script's reply cannot be read", reason=str(ex))
            self._lose(flight, "its reply cannot be read")
        except Exception:
            log.exception("a batch ended unexpectedly")
            self._lose(flight, "unexpected error")

    def _land(self, flight: "_Flight", found: Sequence[Grant | Answer | None]) -> None:
        undecided: list[Run[Caller]] = []
        for run, answer in zip(flight.runs, found, strict=True):
            if isinstance(answer, Grant):
                for caller in run.callers:
                    if not caller.done():
                        caller.set_result(answer)
            elif answer is None:
                undecided.append(run)
            else:
                self._settle(run, answer, flight.asked_at)
        flight.is_over = True
        self._commit.put_back(undecided)
        self._commit.land()
        self._circuit.close()
        self._measures.round_trip_seconds.observe(time.monotonic() - flight.asked_at)
        self._measures.batch_decisions.observe(sum([len(run.callers) for run in flight.runs]))
        # A refusal charges nothing, so it does not show that a full or read-only Redis takes writes again.
        if self._shard in self._measures.lost and any(
            answer and answer.granted and not run.amounts.is_charge for run, answer in zip(flight.runs, found, strict=True)
        ):
            del self._measures.lost[self._shard]
            log.warning("limits are decided again", shard=self._shard)
        _fail(self._commit.drain_older(time.monotonic() - self._deadline_seconds), "no turn at the region's Redis in time")
        self._flush()

    def _lose(self, flight: "_Flight", reason: str) -> None:
        if flight.is_over:
            return
        flight.is_over = True
        self._commit.land()
        self._circuit.open()
        if self._shard not in self._measures.lost:
            log.warning("limits are not decided", reason=reason, shard=self._shard)
        self._measures.lost[self._shard] = time.monotonic()
        # Whoever waits would only wait for the same.
        _fail([*flight.runs, *self._commit.drain()], f"the region's Redis did not decide: {reason}")

    def _settle(self, run: Run[Caller], answer: Answer, asked_at: float) -> None:
        if answer.is_broken:
            _fail([run], "the key of the usage vector holds something else")
            return
        if answer.is_unknown and not self._has_seen_unknown:
            self._has_seen_unknown = True
            log.warning("usage vector of unknown form ignored", tier=run.policy.tier.name)
        left, granted = answer.granted, Decision(True, answer.read)
        refused = granted
        if left < len(run.callers):
            refused = _refusal(run.policy, answer)
            self._denials.remember(run.tids[0], run.policy, run.amounts, refused, asked_at=asked_at)
        for caller in run.callers:
            if not caller.done():  # whoever left meanwhile leaves a grant to the next
                caller.set_result(granted if left > 0 else refused)
                left -= 1


class _Known:
    """A decision that is there already, to be awaited like others: cheaper than a future, and refusals are what a flood asks for."""

    __slots__ = ("_decision",)

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def __await__(self) -> Generator[None, None, Decision]:
        return self._decision
        yield  # makes this a generator, as awaiting needs


class _Flight:
    """A batch under way; over when it was answered or lost."""

    __slots__ = ("asked_at", "is_over", "reply", "runs", "timer")
    timer: asyncio.TimerHandle

    def __init__(self, runs: list[Run[Caller]], reply: Reply, asked_at: float) -> None:
        self.runs = runs
        self.reply = reply
        self.asked_at = asked_at
        self.is_over = False


def _channel_to(redis: RegionalRedis, script: str) -> ScriptChannel | ClusterChannel:
    if isinstance(redis, Cluster):
        return ClusterChannel(redis.register_script(script))
    return ScriptChannel(redis.connection_pool.make_connection, script)


def _fail(runs: Sequence[Run[Caller]], reason: str) -> None:
    for run in runs:
        for caller in run.callers:
            if not caller.done():
                caller.set_exception(LimitStoreUnavailableError(reason))


def _refusal(policy: Policy, answer: Answer) -> Decision:
    violated = tuple(window.name for window, wait in zip(policy.windows, answer.waits, strict=True) if wait)
    return Decision(False, answer.read, violated, max(answer.waits))


def _reason(error: BaseException) -> str:
    # Of a refusal only the first word, the code, is sure to name no key.
    return str(error).split(" ", 1)[0] if isinstance(error, ResponseError) else str(error) or "this worker stops"
