"""Ports of the loopback for servers of the tests; called by whatever starts one."""

import secrets
import socket
from contextlib import suppress

# Below what Linux gives the client's end of a connection (32768 and more): such a port may be taken again before a server has it.
LOWEST, HIGHEST = 12_000, 32_000
# Several are often asked for before the first server listens, and what waits for a server by its log may name that by its port.
taken: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody has, and that this process has not been given before.

    Chosen without a seed, as several processes of tests choose at once.
    """
    while True:
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in taken:
                taken.add(port)
                return port
