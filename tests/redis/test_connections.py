"""Every way to a Redis, against real servers: what is refused, what is sent, and that a user of few commands is enough."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError
from tests.topologies import Certificates, Sentinels, Way

from tidegate.connections.connect import RegionalRedis, connect_region
from tidegate.connections.url import RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument
from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import Tier
from tidegate.limits.circuit import RETRY_SECONDS
from tidegate.limits.decision import Amounts
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.inspection import RegionUsage
from tidegate.limits.redis import RedisLimiter
from tidegate.store.incarnation import Incarnation
from tidegate.store.regional import RegionalMemory
from tidegate.tiers.regional import RegionalTiers
from tidegate_operator.publisher import Publisher

ROOT = Path(__file__).parents[2]
HOUR = Tier.from_spec("pro", {"windows": [{"name": "hour", "limit": 100, "period": "1h"}]})
ONE = Amounts()


@asynccontextmanager
async def reached(url: str, *, timeout_seconds: float = 1.0) -> AsyncIterator[RegionalRedis]:
    redis = connect_region(RegionUrl(url), timeout_seconds=timeout_seconds)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def limiter_at(url: str) -> AsyncIterator[RedisLimiter]:
    async with reached(url) as redis:
        limiter = RedisLimiter(redis)
        try:
            yield limiter
        finally:
            await limiter.aclose()


async def used(url: str) -> int:
    """How much is counted after one more request."""
    async with limiter_at(url) as limiter:
        return (await limiter.decide(("t",), HOUR, ONE)).windows[0].used


# --- TLS -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture
async def secured(valkey: Any, certificates: Certificates) -> AsyncIterator[Way]:
    async with Way(valkey.port, certificates.context()).open() as way:
        yield way


@pytest.mark.parametrize("given_as", ["file", "text"])
async def test_decisions_go_over_tls_to_a_server_that_the_authority_vouches_for(secured: Way, certificates: Certificates, given_as: str):
    file = certificates.authority
    option = f"ssl_ca_certs={quote(str(file))}" if given_as == "file" else f"ssl_ca_data={quote(file.read_text())}"

    assert await used(f"rediss://127.0.0.1:{secured.port}?{option}") == 1
    assert secured.handshakes == 1


@pytest.mark.parametrize("trouble", ["another authority", "another name"])
async def test_a_server_that_is_not_vouched_for_decides_nothing(secured: Way, certificates: Certificates, tmp_path: Path, trouble: str):
    other = Certificates(tmp_path / "others").authority
    urls = {
        "another authority": f"rediss://127.0.0.1:{secured.port}?ssl_ca_certs={other}",
        "another name": f"rediss://localhost:{secured.port}?ssl_ca_certs={certificates.authority}",
    }

    with pytest.raises(LimitStoreUnavailableError):
        await used(urls[trouble])


# --- users ---------------------------------------------------------------------------------------------------------------


def documented(user: str) -> list[str]:
    """The rules of the line to paste."""
    line, *_ = re.findall(rf"^ACL SETUSER {user} (.*)$", (ROOT / "docs/redis.md").read_text(), re.MULTILINE)
    return str(line).split()


def commands(user: str) -> list[str]:
    return [rule for rule in documented(user) if rule.startswith("+")]


async def work(url: str) -> None:
    """All that a worker ever says to its region's Redis."""
    async with reached(url) as redis, limiter_at(url) as limiter:
        tiers = RegionalTiers(redis, worker_id="w")
        async with tiers.channel() as channel:
            await tiers.subscribe(channel)
            await tiers.report(1, ready=True, deciding=True)
            await tiers.read()
            await tiers.withdraw()
        for tids in (("old",), ("old",), ("new", "old")):
            await limiter.decide(tids, HOUR, ONE)
        await RegionalMemory(redis).remember(Incarnation.new())


async def operate(url: str) -> None:
    """All that an operator ever says."""
    publisher = Publisher.connect("frankfurt", url, timeout_seconds=1.0)
    try:
        async with publisher.reports() as reports:
            await reports.wait(0.1)
            await publisher.fill([TierDocument(HOUR, uid="u", generation=1)])
            await publisher.publish(TierDocument(HOUR, uid="u", generation=2))
            await publisher.read("pro")
            await publisher.uids()
            await publisher.retire("pro", "u")
    finally:
        await publisher.aclose()


async def look(url: str) -> None:
    """All that `tidegate usage` ever says."""
    usage = RegionUsage("frankfurt", RegionUrl(url))
    usage.tier_names()
    usage.tier("pro")
    usage.peek(("t",), HOUR)
    usage.sweep(HOUR)
    usage.forget(("t",))


Life = Callable[[str], Awaitable[None]]
LIVES: dict[str, Life] = {"tidegate-api": work, "tidegate-operator": operate, "tidegate-support": look}


async def live_as(user: str, rules: list[str], redis: Redis, valkey: Any) -> None:
    await redis.flushall()
    await redis.script_flush()
    await redis.execute_command("ACL", "SETUSER", user, *rules)
    try:
        await LIVES[user](f"redis://{user}:PASSWORD@127.0.0.1:{valkey.port}/0")
    finally:
        await redis.acl_deluser(user)


@pytest.mark.parametrize("user", LIVES)
async def test_the_documented_user_may_do_all_that_is_ever_done_and_is_refused_nothing(user: str, redis: Redis, valkey: Any):
    await redis.acl_log_reset()
    await redis.config_resetstat()

    await live_as(user, documented(user), redis, valkey)

    assert await redis.acl_log() == []
    # Each script is sent whole once, to a server that does not know it.
    assert set(await redis.info("errorstats")) <= {"errorstat_NOSCRIPT"}


@pytest.mark.parametrize(("user", "command"), [(user, command) for user in LIVES for command in commands(user)])
async def test_no_command_of_a_documented_user_is_one_too_many(user: str, command: str, redis: Redis, valkey: Any):
    """And one that is missing is a typed error."""
    rules = [rule for rule in documented(user) if rule != command]

    with pytest.raises(TidegateError):
        await live_as(user, rules, redis, valkey)


@pytest.mark.parametrize(("user", "pattern"), [(user, rule) for user in LIVES for rule in documented(user) if rule[0] in "~&"])
async def test_no_key_of_a_documented_user_is_one_too_many(user: str, pattern: str, redis: Redis, valkey: Any):
    rules = [rule for rule in documented(user) if rule != pattern]

    with pytest.raises(TidegateError):
        await live_as(user, rules, redis, valkey)


@pytest.mark.parametrize("user", LIVES)
async def test_a_documented_user_may_do_nothing_else(user: str, redis: Redis, valkey: Any):
    await redis.execute_command("ACL", "SETUSER", user, *documented(user))
    granted = await redis.acl_getuser(user)
    async with Redis(port=valkey.port, username=user, password="PASSWORD") as own:
        for refused in (
            own.get("other"),
            own.flushall(),
            own.keys("*"),
            own.config_get("*"),
            own.script_flush(),
            own.publish("other", "x"),
        ):
            with pytest.raises(NoPermissionError):
                await refused
    await redis.acl_deluser(user)

    assert (set(granted["commands"]), granted["categories"]) == (set(commands(user)), ["-@all"])


async def test_a_user_for_the_tiers_cannot_touch_a_quota(redis: Redis, valkey: Any):
    await redis.execute_command("ACL", "SETUSER", "tidegate-operator", *documented("tidegate-operator"))
    async with Redis(port=valkey.port, username="tidegate-operator", password="PASSWORD") as own:
        with pytest.raises(NoPermissionError):
            await own.set(keys.usage("t"), b"")
    await redis.acl_deluser("tidegate-operator")


# --- Sentinels -----------------------------------------------------------------------------------------------------------


async def test_sentinels_lead_to_the_primary_even_if_the_first_is_gone(valkey: Any, valkeys: Callable[..., Any], tmp_path: Path, port: int):
    watched = Sentinels(valkeys, tmp_path, primary=valkey, number=1)

    assert await used(watched.url.replace("://", f"://127.0.0.1:{port},")) == 1


@pytest.mark.parametrize("missing", ["", *commands("tidegate-at-sentinels")])
async def test_the_documented_user_of_sentinels_may_do_what_it_needs_alone(
    valkey: Any, valkeys: Callable[..., Any], tmp_path: Path, missing: str
):
    watched = Sentinels(valkeys, tmp_path, primary=valkey, number=1)
    rules = [rule for rule in documented("tidegate-at-sentinels") if rule != missing]
    async with watched.members[0].client() as sentinel:
        await sentinel.execute_command("ACL", "SETUSER", "tidegate-at-sentinels", *rules)
    url = f"{watched.url}?sentinel_username=tidegate-at-sentinels&sentinel_password=PASSWORD"

    with pytest.raises(LimitStoreUnavailableError) if missing else nullcontext():
        assert await used(url) == 1


@pytest.mark.parametrize("trouble", ["all are gone", "no such service", "their primary is gone"])
async def test_sentinels_that_lead_nowhere_are_a_typed_error_in_time(valkeys: Callable[..., Any], tmp_path: Path, port: int, trouble: str):
    primary = valkeys()
    watched = Sentinels(valkeys, tmp_path, primary=primary, number=1)
    if trouble == "their primary is gone":
        primary.kill()
    urls = {
        "all are gone": f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{port}/regional",
        "no such service": watched.url.replace("/regional", "/other"),
        "their primary is gone": watched.url,
    }
    started = time.monotonic()

    with pytest.raises(LimitStoreUnavailableError):
        await used(urls[trouble])

    assert time.monotonic() - started < 1


async def test_sentinels_and_their_primary_are_reached_over_tls(
    valkey: Any, valkeys: Callable[..., Any], certificates: Certificates, tmp_path: Path
):
    async with Way(valkey.port, certificates.context()).open() as primary:
        watched = Sentinels(valkeys, tmp_path, primary=valkey, number=1, port=primary.port)
        async with Way(watched.members[0].port, certificates.context()).open() as sentinel:
            url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/regional?ssl_ca_certs={certificates.authority}"

            assert await used(url) == 1
            assert (primary.handshakes, sentinel.handshakes) == (1, 1)


async def test_a_replica_decides_nothing_and_says_why(valkey: Any, valkeys: Callable[..., Any]):
    """A client that was pointed at one, or whose primary became one; the tier's `onStoreLoss` takes over."""
    replica = valkeys("--replicaof", f"127.0.0.1 {valkey.port}")

    with pytest.raises(LimitStoreUnavailableError, match="READONLY"):
        await used(replica.url)


async def test_a_primary_that_was_made_a_replica_is_left(valkey: Any, valkeys: Callable[..., Any]):
    """Who is the primary now is found out with the next connection; this one would be refused for ever."""
    primary = valkeys()
    async with limiter_at(primary.url) as limiter, primary.client() as redis:
        await limiter.decide(("t",), HOUR, ONE)
        opened = (await redis.info("stats"))["total_connections_received"]
        await redis.replicaof("127.0.0.1", valkey.port)
        with pytest.raises(LimitStoreUnavailableError, match="READONLY"):
            await limiter.decide(("t",), HOUR, ONE)
        await redis.replicaof("NO", "ONE")
        await asyncio.sleep(RETRY_SECONDS)

        assert (await limiter.decide(("t",), HOUR, ONE)).granted
        assert (await redis.info("stats"))["total_connections_received"] == opened + 1


# --- in time -------------------------------------------------------------------------------------------------------------


async def test_a_server_that_hangs_is_given_up_in_time(valkey: Any):
    async with Way(valkey.port).open() as way:
        await assert_given_up(way, f"redis://127.0.0.1:{way.port}")


async def test_a_server_that_hangs_behind_sentinels_is_given_up_in_time(valkey: Any, valkeys: Callable[..., Any], tmp_path: Path):
    async with Way(valkey.port).open() as way:
        await assert_given_up(way, Sentinels(valkeys, tmp_path, primary=valkey, number=1, port=way.port).url)


async def assert_given_up(way: Way, url: str) -> None:
    async with reached(url, timeout_seconds=0.25) as redis:
        script = redis.register_script("return redis.call('GET', KEYS[1])")
        assert await script(keys=["tg:1:a"]) is None
        way.flows.clear()
        started = time.monotonic()

        with pytest.raises(RedisError):
            await script(keys=["tg:1:a"])

        assert time.monotonic() - started < 1


# --- once ----------------------------------------------------------------------------------------------------------------


async def test_a_decision_whose_reply_is_lost_is_charged_once_on_one_server(valkey: Any):
    async with Way(valkey.port).open() as way:
        assert await charged_by_a_lost_reply(way, f"redis://127.0.0.1:{way.port}") == 1


async def test_a_decision_whose_reply_is_lost_is_charged_once_behind_sentinels(valkey: Any, valkeys: Callable[..., Any], tmp_path: Path):
    async with Way(valkey.port).open() as way:
        watched = Sentinels(valkeys, tmp_path, primary=valkey, number=1, port=way.port)

        assert await charged_by_a_lost_reply(way, watched.url) == 1


async def charged_by_a_lost_reply(way: Way, url: str) -> int:
    """What is charged by a decision that was carried out, and whose answer never came (W11)."""
    async with limiter_at(url) as limiter:
        before = (await limiter.decide(("t",), HOUR, ONE)).windows[0].used
        way.loses_replies_to = b"EVALSHA"
        with pytest.raises(LimitStoreUnavailableError):
            await limiter.decide(("t",), HOUR, ONE)
        way.loses_replies_to = b""
        assert way.lost == 1
        await asyncio.sleep(RETRY_SECONDS)
        return (await limiter.peek(("t",), HOUR)).windows[0].used - before
