"""The API with one more route, whose handler waits for a backend; started by `overload.py`.

The backend does `BENCH_AT_ONCE` requests at once in `BENCH_SECONDS` each, give or take a half, and shares the same capacity among more:
each takes longer then.
`BENCH_GUARD` is what stands before it in this worker besides the seats of the settings: nothing, or a semaphore as wide as the backend.
"""

import asyncio
import os
import random
from contextlib import AbstractAsyncContextManager, nullcontext

from falcon.asgi import Request, Response

from tidegate.application import create_app
from tidegate.settings import PREFIX, Settings
from tidegate.telemetry import configure_logging

SECONDS = float(os.environ["BENCH_SECONDS"])
AT_ONCE = int(os.environ["BENCH_AT_ONCE"])
GUARD = os.environ.get("BENCH_GUARD", "nothing")


class Work:
    def __init__(self) -> None:
        self._running = 0
        self._guard: AbstractAsyncContextManager[None] = asyncio.Semaphore(AT_ONCE) if GUARD == "semaphore" else nullcontext()

    async def on_get(self, req: Request, resp: Response) -> None:
        async with self._guard:
            self._running += 1
            try:
                # Handlers that all took the same would end together for ever, and who comes between would wait for all of them.
                await asyncio.sleep(SECONDS * random.uniform(0.5, 1.5) * max(1.0, self._running / AT_ONCE))
            finally:
                self._running -= 1
        resp.data = b"{}"


configure_logging("warning")
app = create_app(Settings.from_environment({name: value for name, value in os.environ.items() if name.startswith(PREFIX)}))
app.add_route("/bench/work", Work())
