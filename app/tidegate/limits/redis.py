"""The limiter on the region's Redis or Valkey: one script call a decision; made by `application.py`."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from tidegate.contract import keys
from tidegate.contract.tier import Tier, Window
from tidegate.limits.decision import Amounts, Decision, WindowState
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.policy import Policy, policy_of

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

CALLS_IN_FLIGHT = 64
"""Each holds a connection, and redis-py refuses when its pool of 100 is empty."""
TURN_SECONDS = 0.25
"""Longest wait for a call's turn: behind a Redis that hangs, callers must not queue up for many timeouts."""

_READING = struct.Struct("<ddd")


class RedisLimiter:
    """Decides on usage vectors in `redis`, a client with explicit timeouts and no retries (a repeated script charges twice).

    Every method raises `LimitStoreUnavailableError` when Redis does not answer in time or refuses.
    """

    def __init__(self, redis: Redis) -> None:
        self._script = redis.register_script(resources.files(__package__).joinpath("decide.lua").read_text())
        self._turns = asyncio.Semaphore(CALLS_IN_FLIGHT)
        self._has_seen_unknown = False

    async def decide(self, tid: str, tier: Tier, amounts: Amounts) -> Decision:
        """Charge `amounts` to every window of `tier` if all have room, else to none."""
        policy = policy_of(tier)
        return await self._run(tid, policy, policy.pack_request(amounts))

    async def charge(self, tid: str, tier: Tier, *, response_bytes: int) -> Decision:
        """Charge a response that was already granted; the windows may pass their limits, and the next request pays."""
        policy = policy_of(tier)
        return await self._run(tid, policy, policy.pack_response(response_bytes))

    async def peek(self, tid: str, tier: Tier) -> Decision:
        """The state of every window, without a charge."""
        policy = policy_of(tier)
        return await self._run(tid, policy, policy.pack_response(0))

    async def _run(self, tid: str, policy: Policy, amounts: bytes) -> Decision:
        async with self._turn(), _translated():
            unknown, readings = await self._script(keys=[keys.usage(tid)], args=[policy.packed, amounts])
        if unknown and not self._has_seen_unknown:
            self._has_seen_unknown = True
            log.warning("usage vector of unknown form ignored", tid=tid, tier=policy.tier.name)
        return _decision(policy.windows, _READING.iter_unpack(readings))

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._turns.acquire()
        except TimeoutError as ex:
            raise LimitStoreUnavailableError(f"no turn at the region's Redis within {TURN_SECONDS} s") from ex
        try:
            yield
        finally:
            self._turns.release()


def _decision(windows: tuple[Window, ...], readings: Iterable[tuple[float, ...]]) -> Decision:
    states, violated, longest = [], [], 0.0
    for window, (used, reset, wait) in zip(windows, readings, strict=True):
        states.append(WindowState(window, int(used), reset / 1e6))
        if wait:
            violated.append(window.name)
            longest = max(longest, wait / 1e6)
    return Decision(not violated, tuple(states), tuple(violated), longest)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as ex:
        raise LimitStoreUnavailableError(f"the region's Redis did not decide: {_reason(ex)}") from ex


def _reason(error: Exception) -> str:
    # redis-py has classes for common refusals (OutOfMemoryError). Of others only the first word, the code, is sure to name no key.
    return str(error).split(" ", 1)[0] if type(error) is ResponseError else type(error).__name__
