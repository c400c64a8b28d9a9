"""Tries to connect to each address that it is given, all at once, and prints those that answer; run in a pod by `reach.py`."""

import asyncio
import json
import sys

TIMEOUT_SECONDS = 3


async def is_open(address: str) -> bool:
    """Whether a TCP connection is made."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def main(addresses: list[str]) -> None:
    """Try them all."""
    found = await asyncio.gather(*map(is_open, addresses))
    print(json.dumps([address for address, answers in zip(addresses, found, strict=True) if answers]))


asyncio.run(main(sys.argv[1:]))
