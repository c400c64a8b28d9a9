"""Every contender of `make bench-limits`: how it is started, and how many calls it makes for one decision."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from bench.peers import builds
from bench.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Peer:
    """A contender: `command` gives what starts it, and may build it before.

    Args:
        name: As in the table.
        command: Raises `ToolUnavailable` or `ToolBuildFailed` where the contender is not to be had.
        calls: Of Redis or its script for one decision; more than one are not atomic together.
        scenarios: In which it runs; empty for all.
    """

    name: str
    command: Callable[[], list[str]]
    calls: Callable[[Scenario], int]
    scenarios: tuple[str, ...] = ()


def python(module: str, *arguments: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", f"bench.peers.python.{module}", *arguments]


def flexible(pipelining: str) -> Callable[[], list[str]]:
    return lambda: ["node", str(builds.node() / "flexible.js"), pipelining]


def go(kind: str) -> Callable[[], list[str]]:
    return lambda: [str(builds.go()), kind]


def once(_scenario: Scenario) -> int:
    return 1


def per_counter(scenario: Scenario) -> int:
    return len(scenario.counters)


def per_unit(scenario: Scenario) -> int:
    return len({counter.unit for counter in scenario.counters})


OURS = Peer("tidegate", python("ours"), once)
PEERS = (
    OURS,
    Peer("limits", python("limits_sliding"), per_counter),
    Peer("throttled-py", python("throttled_gcra"), per_counter),
    Peer("pyrate-limiter", python("pyrate_gcra"), per_unit),
    Peer("rate-limiter-flexible", flexible("true"), per_counter),
    Peer("rate-limiter-flexible, each call apart", flexible("false"), per_counter),
    Peer("redis_rate", go("redis_rate"), per_counter),
    Peer("rueidis", go("rueidis:0"), per_counter),
    # What its documentation advises for less CPU and more latency: a pause of 20 microseconds after each flush.
    Peer("rueidis, flush delay", go("rueidis:20"), per_counter),
    Peer("floor: empty EVALSHA", python("floor", "evalsha"), once, ("S1", "S6")),
    Peer("floor: INCR", python("floor", "incr"), once, ("S1", "S4", "S6")),
    Peer("floor: BITFIELD", python("floor", "bitfield"), once, ("S1", "S2", "S3", "S6")),
)
