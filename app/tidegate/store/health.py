"""Watches whether the consistent store may be trusted with mutations (IDEM-18); started by `application.py`, asked by `/readyz`."""

import asyncio
import time

import structlog

from tidegate.store.base import ConsistentStore
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreUnavailableError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

CHECK_SECONDS = 5.0
"""A misconfiguration comes with a deployment, not between two requests."""
START_SECONDS, RETRY_SECONDS = 2.0, 0.2
"""How long a start waits for an answer, and between tries: a network may let a pod through only when its policies know it."""


class StoreHealth:
    """Remembers the last check, so that readiness costs no I/O.

    A store that does not answer leaves readiness alone: every region shares it, so taking regions out would stop reads too, while
    mutations are refused one by one. A store that could lose results makes the worker unready.
    """

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.is_usable = True

    async def start(self) -> None:
        """Connect, as far as the store can be reached soon, and begin to watch. A store that is away does not stop a start."""
        give_up_at = time.monotonic() + START_SECONDS
        while not await self._check():
            if time.monotonic() > give_up_at:
                break
            await asyncio.sleep(RETRY_SECONDS)
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the watch."""
        # Not by cancellation: redis-py can lose one that meets a call in flight. A call ends by its own deadline.
        self._stopping.set()
        if self._task:
            await self._task

    async def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._stopping.wait()
            except TimeoutError:
                await self._check()

    async def _check(self) -> bool:
        """Whether the store answered."""
        try:
            await self._store.check()
        except StoreUnavailableError as ex:
            log.warning("the consistent store does not answer; mutations are refused", reason=str(ex))
            return False
        except StoreMisconfiguredError as ex:
            if self.is_usable:
                log.error("the consistent store could lose results; this worker is not ready", reason=str(ex))
            self.is_usable = False
        except StoreAilingError as ex:
            log.warning("the consistent store needs attention", reason=str(ex))
            self.is_usable = True
        except Exception:
            log.exception("checking the consistent store failed unexpectedly")
        else:
            self.is_usable = True
        return True
