"""Asks a URL so many times a second, on new connections, and prints what came back when told to end; run in a pod by `traffic.py`."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import aiohttp

URL, TOKEN, RATE = os.environ["URL"], os.environ["TOKEN"], float(os.environ["RATE"])
TIMEOUT_SECONDS = 5
WARM_AFTER = 100
WARM = Path("/tmp/warm")


async def ask(session: aiohttp.ClientSession, outcomes: list[tuple[float, str, str]]) -> None:
    """One request; what went wrong is kept, with the time when it was sent."""
    sent, region, problem = time.time(), "", ""
    try:
        async with session.get(URL, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            region = answer.headers.get("tidegate-region", "")
            await answer.read()
            problem = "" if answer.status == 200 else f"status {answer.status} {answer.headers.get('tidegate-unavailable', '')}"
    except (aiohttp.ClientError, OSError, TimeoutError) as ex:
        problem = f"{type(ex).__name__}: {ex}"
    outcomes.append((sent, region, problem))
    if len(outcomes) == WARM_AFTER:
        WARM.touch()


async def main() -> None:
    """Ask until SIGTERM comes, then wait for what is still asked."""
    outcomes: list[tuple[float, str, str]] = []
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    connector, timeout = aiohttp.TCPConnector(force_close=True, limit=0), aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as requests:
        while not ended.is_set():
            requests.create_task(ask(session, outcomes))
            await asyncio.sleep(1 / RATE)
    print(json.dumps(outcomes))


asyncio.run(main())
