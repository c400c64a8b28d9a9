"""The user of a lane's Redis that docs/cache.md gives may do all that is ever said to a lane, and nothing that is too much."""

import re
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import Lane
from tidegate.cache.sealing import LaneKeys
from tidegate.connections.connect import connect
from tidegate.connections.url import RedisUrl
from tidegate.contract import keys
from tidegate.contract.lanes import lane_url
from tidegate.contract.tier import Lane as LaneKind
from tidegate_operator.lane_objects import RULES

ROOT = Path(__file__).parents[2]
USER = "tidegate-lane"
ENTRY = Entry({}, b"x", 0.0, 60.0, 0, 0, 0.0)


def documented() -> list[str]:
    """The rules of the line to paste."""
    [line] = re.findall(rf"^ACL SETUSER {USER} (.*)$", (ROOT / "docs/cache.md").read_text(), re.MULTILINE)
    return str(line).split()


def test_the_operator_and_the_chart_give_it_the_same() -> None:
    password, *rules = documented()[2:]

    assert (password, " ".join(rules)) == (">PASSWORD", RULES)


async def work(address: str) -> None:
    """All that is ever said to a lane: what requests, mutations and the purge need."""
    client = connect(RedisUrl(lane_url(address, region="dublin", password="PASSWORD")), timeout_seconds=2)
    lane = Lane(LaneKind.DEDICATED, LaneKeys("own|uid", b"n" * 32, b"s" * 32), client, timeout_seconds=2)
    place = lane.place("acme", "/a")
    try:
        assert (await lane.take(place, "first", b"")).is_ours
        assert await lane.renew(place, "first")
        await lane.release(place, "first")
        assert (await lane.take(place, "second", b"")).is_ours
        assert await lane.store(place, "second", ENTRY)
        assert (await lane.read(place)).entry == ENTRY
        assert await lane.forget(place.key) == 1
        assert await lane.forget_tenant("acme") == 0
    finally:
        await lane.aclose()


async def work_as_user(rules: list[str], redis: Redis, valkey: Any) -> None:
    await redis.script_flush()
    await redis.execute_command("ACL", "SETUSER", USER, *rules)
    try:
        await work(f"redis://{USER}@127.0.0.1:{valkey.port}")
    finally:
        await redis.acl_deluser(USER)


async def test_the_documented_user_is_refused_nothing_that_a_lane_is_asked(redis: Redis, valkey: Any) -> None:
    """With its name in the address that is published, and the password that follows from a secret."""
    await redis.acl_log_reset()
    await redis.config_resetstat()

    await work_as_user(documented(), redis, valkey)

    assert await redis.acl_log() == []
    # Each script is sent whole once, to a server that does not know it.
    assert set(await redis.info("errorstats")) <= {"errorstat_NOSCRIPT"}


@pytest.mark.parametrize("missing", [rule for rule in documented() if rule[0] in "+~"])
async def test_no_rule_of_the_documented_user_is_one_too_many(missing: str, redis: Redis, valkey: Any) -> None:
    """And without it the lane counts as one that does not answer."""
    rules = [rule for rule in documented() if rule != missing]

    with pytest.raises(LaneUnavailableError, match=r"NoPermissionError|ResponseError"):
        await work_as_user(rules, redis, valkey)


async def test_the_documented_user_may_do_nothing_else(redis: Redis, valkey: Any) -> None:
    await redis.execute_command("ACL", "SETUSER", USER, *documented())
    granted = await redis.acl_getuser(USER)
    async with Redis(port=valkey.port, username=USER, password="PASSWORD") as own:
        for refused in (own.hget(keys.TIERS, "pro"), own.flushall(), own.keys("*"), own.config_get("*"), own.publish("other", "x")):
            with pytest.raises(NoPermissionError):
                await refused
    await redis.acl_deluser(USER)

    assert (set(granted["commands"]), granted["categories"]) == ({rule for rule in documented() if rule[0] == "+"}, ["-@all"])
