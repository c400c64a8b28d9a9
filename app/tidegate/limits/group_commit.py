"""Gathers decisions while batches are under way, so that any number of callers share few script calls; pure, driven by `redis.py`.

No timer: what waits goes out as soon as a batch may (an idle system pays one round trip), and what comes meanwhile forms the next batch.
Equal requests of one identity that follow one another are one run, which the script grants as the longest prefix that fits.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tidegate.limits.decision import Amounts
from tidegate.limits.policy import Policy

BATCHES_IN_FLIGHT = 2
"""One is answered while the next is on its way; more would make batches smaller and Redis busier."""
BATCH_MICROSECONDS = 900
RUN_MICROSECONDS, WINDOW_MICROSECONDS = 5, 3
"""What a run and each window of its tier take of Redis when it is refused, which takes longest (`make bench-script`). So a batch holds
up others for less than a millisecond; most are granted, and take a quarter of that. Windows of other tiers, which a vector keeps for as
long as they count something, are not known here: where they take too long, the script leaves the rest of a batch undecided."""


class Caller(Protocol):
    """Somebody who waits for a decision; an `asyncio.Future` is one."""

    def cancelled(self) -> bool:
        """Whether nobody waits any more."""


C = TypeVar("C", bound=Caller)


@dataclass(slots=True, eq=False)
class Run(Generic[C]):
    """Equal requests of one identity, in the order in which they came.

    Args:
        tids: Pseudonyms of the identity: the one to be counted under, and any other that its vector may still be under.
        policy: Of its tier.
        amounts: What each request weighs.
        callers: One for each request.
        since: When the first of them came.
    """

    tids: tuple[str, ...]
    policy: Policy
    amounts: Amounts
    callers: list[C]
    since: float = 0.0

    def take_in(self, policy: Policy, amounts: Amounts) -> bool:
        """Take a request of `amounts` under `policy` in, if it is like the others; charges after the fact add up."""
        if self.policy is not policy:
            return False
        if self.amounts.response_bytes is not None and amounts.response_bytes is not None:
            self.amounts = Amounts(response_bytes=self.amounts.response_bytes + amounts.response_bytes)
            return True
        return self.amounts == amounts

    def drop_cancelled(self) -> bool:
        """Forget who no longer waits; whether somebody is left. A charge after the fact is due though nobody waits for it."""
        for caller in self.callers:
            if caller.cancelled() and self.amounts.response_bytes is None:
                self.callers = [caller for caller in self.callers if not caller.cancelled()]
                return bool(self.callers)
        return True


class GroupCommit(Generic[C]):
    """The runs that wait and how many batches are under way."""

    def __init__(self) -> None:
        self._waiting: deque[Run[C]] = deque()
        self._newest: dict[str, Run[C]] = {}
        self._in_flight = 0

    def add(self, tids: tuple[str, ...], policy: Policy, amounts: Amounts, caller: C, *, now: float = 0.0) -> None:
        """Have a request wait for the next batch, from `now` (monotonic seconds)."""
        run = self._newest.get(tids[0])
        if run is not None and run.take_in(policy, amounts):
            run.callers.append(caller)
            return
        run = self._newest[tids[0]] = Run(tids, policy, amounts, [caller], now)
        self._waiting.append(run)

    def take(self) -> list[Run[C]]:
        """The next batch; empty when nobody waits or enough are under way. Each one taken ends with `land`."""
        batch: list[Run[C]] = []
        microseconds = BATCH_MICROSECONDS if self._in_flight < BATCHES_IN_FLIGHT else 0
        waiting, newest = self._waiting, self._newest
        while waiting and microseconds > 0:
            run = waiting.popleft()  # and the rest of `_pop`: a call for each run would show
            if newest.get(run.tids[0]) is run:
                del newest[run.tids[0]]
            if run.drop_cancelled():
                batch.append(run)
                microseconds -= RUN_MICROSECONDS + WINDOW_MICROSECONDS * run.policy.size
        self._in_flight += bool(batch)
        return batch

    def put_back(self, runs: Sequence[Run[C]]) -> None:
        """Have runs that were taken and not decided wait again, before all others."""
        self._waiting.extendleft(reversed(runs))

    def drain(self) -> list[Run[C]]:
        """Everybody who waits, and then nobody does."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._newest.clear()
        return waiting

    def drain_older(self, before: float) -> list[Run[C]]:
        """Whoever has waited since before that moment."""
        overdue: list[Run[C]] = []
        while self._waiting and self._waiting[0].since < before:
            overdue.append(self._pop())
        return overdue

    def _pop(self) -> Run[C]:
        run = self._waiting.popleft()
        if self._newest.get(run.tids[0]) is run:
            del self._newest[run.tids[0]]
        return run

    def land(self) -> None:
        """A batch was answered, or failed."""
        self._in_flight -= 1
