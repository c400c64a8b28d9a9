"""How full a cache lane is and what it has evicted, as its Redis says; called by the act of the tour that floods one."""

from dataclasses import dataclass
from pathlib import Path

from tidegate.local.enforcement import redis_at


@dataclass(frozen=True, slots=True)
class LaneMemory:
    """Bytes that a lane uses and may use, and how many keys it has evicted since its start."""

    used_bytes: int
    maximum_bytes: int
    evicted_keys: int


def read_lane_memory(redis_socket: Path) -> LaneMemory:
    """The memory of the lane at `redis_socket`.

    Raises:
        LocalRunError: Its Redis does not answer.
    """
    with redis_at(redis_socket) as redis:
        memory, stats = redis.info("memory"), redis.info("stats")
    return LaneMemory(int(memory["used_memory"]), int(memory["maxmemory"]), int(stats["evicted_keys"]))
