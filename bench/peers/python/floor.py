"""What Redis itself must spend: a script that does nothing, INCR or BITFIELD, as deep in one connection as there are callers.

No limiter: written in one piece on a plain socket, so that next to nothing is spent on this side. The first argument says which.
"""

import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import hiredis
from bench.peers.python.runner import Decide, Task, main
from redis import Redis

Command = Callable[[str], Any]


def commands(kind: str, task: Task) -> Command:
    if kind == "evalsha":
        with Redis.from_url(task.url) as redis:
            sha = str(redis.script_load("return 1"))
        return lambda name: ("EVALSHA", sha, 1, name)
    if kind == "incr":
        return lambda name: ("INCR", name)
    fields = [part for number in range(len(task.counters)) for part in ("INCRBY", "u32", f"#{number}", 1)]
    return lambda name: ("BITFIELD", name, *fields)


def maker(kind: str) -> Callable[[Task], Decide]:
    def make(task: Task) -> Decide:
        """One caller's decision is a whole batch on the wire; the others find theirs in it."""
        command = commands(kind, task)
        url = urlsplit(task.url)
        connection = socket.create_connection((url.hostname, url.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = hiredis.Reader()
        waiting: list[bytes] = []
        packed: dict[str, bytes] = {}

        async def decide(identity: str) -> bool:
            if identity not in packed:
                packed[identity] = hiredis.pack_command(command(identity))
            waiting.append(packed[identity])
            if len(waiting) >= task.concurrency:
                _exchange(connection, reader, waiting)
            return True

        return decide

    return make


def _exchange(connection: socket.socket, reader: hiredis.Reader, waiting: list[bytes]) -> None:
    connection.sendall(b"".join(waiting))
    answers = 0
    while answers < len(waiting):
        reader.feed(connection.recv(65536))
        while (answer := reader.gets()) is not False:
            if isinstance(answer, Exception):
                raise answer
            answers += 1
    waiting.clear()


if __name__ == "__main__":
    main(maker(sys.argv.pop(1)))
