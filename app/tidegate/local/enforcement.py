"""What the workers of a region say that they enforce, read where the operator reads it; called by `tour.py`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis, RedisError

from tidegate.contract import keys
from tidegate.contract.codec import decode_heartbeat
from tidegate.local.errors import LocalRunError

TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Enforcement:
    """A region's revision of the tiers, and the revision that each of its workers enforces."""

    revision: int
    workers: tuple[int, ...]

    def is_newer_than(self, revision: int) -> bool:
        """Whether the tiers changed after `revision` and every worker enforces the change."""
        return self.revision > revision and bool(self.workers) and set(self.workers) == {self.revision}


def read_enforcement(redis_socket: Path) -> Enforcement:
    """The state of the region with the Redis at `redis_socket`.

    Raises:
        LocalRunError: Its Redis does not answer.
    """
    with redis_at(redis_socket) as redis:
        revision, workers = redis.get(keys.REVISION), redis.hvals(keys.WORKERS)
    return Enforcement(int(revision or 0), tuple(decode_heartbeat(text).revision for text in workers))


@contextmanager
def redis_at(redis_socket: Path) -> Iterator[Redis]:
    """A client of the Redis at `redis_socket`.

    Raises:
        LocalRunError: In the block, which reads: it does not answer.
    """
    try:
        with Redis(unix_socket_path=str(redis_socket), socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS) as redis:
            yield redis
    except RedisError as ex:
        raise LocalRunError(f"the Redis at {redis_socket} does not answer: {ex}") from ex
