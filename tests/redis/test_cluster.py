"""A region on a real Redis Cluster of three primaries: limits by shard, tiers and operator, moved slots, lost replies."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError
from structlog.testing import capture_logs
from tests.conftest import Valkey
from tests.ports import free_port
from tests.topologies import Certificates, ValkeyCluster, Way

from tidegate.connections.cluster import Cluster
from tidegate.connections.connect import connect_region
from tidegate.connections.url import Address, RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument
from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import Tier
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.limits.circuit import RETRY_SECONDS
from tidegate.limits.decision import Amounts, Decision
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.group_commit import BATCHES_IN_FLIGHT
from tidegate.limits.inspection import RegionUsage
from tidegate.limits.measures import Measures
from tidegate.limits.redis import RedisLimiter
from tidegate.limits.sharded import ShardedLimiter, limiter_of
from tidegate.store.incarnation import Incarnation
from tidegate.store.regional import RegionalMemory
from tidegate.tiers.source import TierSource
from tidegate_operator.publisher import Publisher

SHARDS = 12
HOUR = Tier.from_spec("pro", {"windows": [{"name": "hour", "limit": 50, "period": "1h"}]})
ONE = Amounts()
Eventually = Callable[..., Any]


@asynccontextmanager
async def reached(url: str, *, timeout_seconds: float = 1.0) -> AsyncIterator[Cluster]:
    redis = connect_region(RegionUrl(url), timeout_seconds=timeout_seconds)
    assert isinstance(redis, Cluster)
    try:
        yield redis
    finally:
        await redis.aclose()


@pytest.fixture
async def redis(cluster: ValkeyCluster) -> AsyncIterator[Cluster]:
    async with reached(cluster.url) as redis:
        yield redis


@pytest.fixture
def limiter(redis: Cluster) -> ShardedLimiter:
    return ShardedLimiter(redis, SHARDS)


def name_in(cluster: ValkeyCluster, primary: Valkey, tid: str = "t") -> str:
    """Of an identity that lies with that primary."""
    names = (keys.sharded(tid, shard) for shard in range(SHARDS))
    return next(name for name in names if cluster.primary_of(keys.usage(name)) is primary)


async def count(limiter: ShardedLimiter, *tids: str) -> int:
    """How much is counted after one more request."""
    return (await limiter.decide(tids, HOUR, ONE)).windows[0].used


# --- limits --------------------------------------------------------------------------------------------------------------


async def test_every_identity_gets_exactly_its_limit_on_whichever_primary(cluster: ValkeyCluster, limiter: ShardedLimiter):
    """RL-11: two workers, all shards at once."""
    tids = [(keys.sharded(f"t{number}", number % SHARDS),) for number in range(3 * SHARDS)]
    async with reached(cluster.url) as other:
        both = (limiter, ShardedLimiter(other, SHARDS))

        decisions = await asyncio.gather(*(one.decide(name, HOUR, ONE) for name in tids for _ in range(30) for one in both))

    granted = [sum(decision.granted for decision in decisions[60 * place : 60 * place + 60]) for place in range(len(tids))]
    assert granted == [50] * len(tids)
    held = []
    for node in cluster.primaries:
        async with node.client() as client:
            held.append(await client.dbsize())
    assert sum(held) == len(tids)
    assert all(held)


async def test_a_response_is_charged_and_a_look_finds_it(limiter: ShardedLimiter):
    tier = Tier.from_spec("pro", {"windows": [{"name": "egress", "limit": 50, "period": "1h", "unit": "ResponseBytes"}]})

    await limiter.charge(("7:t",), tier, response_bytes=9)

    assert (await limiter.peek(("7:t",), tier)).windows[0].used == 9


async def test_a_key_of_pseudonyms_is_replaced_and_no_quota_refills(cluster: ValkeyCluster):
    """VEC-3: both names of an identity lie in one slot, and workers in the middle of each rollout count together."""
    old, new = b"o" * 32, b"n" * 32
    steps = [((old,), (old, new)), ((old, new), (new, old)), ((new, old), (new,))]
    tids = [
        [[Pseudonyms(*known, shards=SHARDS, shard_key=b"s" * 32).tids(f"customer {number}") for known in step] for step in steps]
        for number in range(20)
    ]
    async with reached(cluster.url) as one, reached(cluster.url) as other:
        limiters = (ShardedLimiter(one, SHARDS), ShardedLimiter(other, SHARDS))

        async def granted(customer: list[list[tuple[str, ...]]]) -> int:
            decisions: list[Decision] = []
            for step in customer:
                for _ in range(10):
                    decisions += await asyncio.gather(
                        *(limiter.decide(names, HOUR, ONE) for limiter, names in zip(limiters, step, strict=True))
                    )
            return sum(decision.granted for decision in decisions)

        assert await asyncio.gather(*map(granted, tids)) == [50] * 20


async def test_each_shard_has_its_own_batches_under_way(limiter: ShardedLimiter, monkeypatch: pytest.MonkeyPatch, eventually: Eventually):
    """A shard whose primary is slow holds up no other; and no primary gets more than two batches of a shard at a time."""
    gate, under_way = asyncio.Event(), [0] * SHARDS
    for shard, one in enumerate(limiter._limiters):

        async def held_up(*arguments: Any, shard: int = shard, script: Any = one._channel._script, **named: Any) -> object:
            under_way[shard] += 1
            await gate.wait()
            return await script(*arguments, **named)

        monkeypatch.setattr(one._channel, "_script", held_up)
    asked = []
    for number in range(4):
        asked += [asyncio.ensure_future(limiter.decide((keys.sharded(f"t{number}", shard),), HOUR, ONE)) for shard in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)

    assert under_way == [BATCHES_IN_FLIGHT] * 3 + [0] * (SHARDS - 3)
    gate.set()
    assert all(decision.granted for decision in await asyncio.gather(*asked))


async def test_each_shard_is_decided_by_its_own_limiter(limiter: ShardedLimiter):
    limiter._limiters[:7] = limiter._limiters[8:] = []
    limiter._limiters[:0] = [None] * 7  # type: ignore[list-item]

    assert (await limiter.decide(("7:t",), HOUR, ONE)).windows[0].used == 1
    assert (await limiter.charge(("7:t",), HOUR, response_bytes=1)).windows[0].used == 1
    assert (await limiter.peek(("7:t",), HOUR)).windows[0].used == 1


async def test_a_stop_fails_whoever_waits_for_any_shard(limiter: ShardedLimiter):
    waiting = [asyncio.ensure_future(limiter.decide((keys.sharded("t", shard),), HOUR, ONE)) for shard in range(SHARDS)]
    await asyncio.sleep(0)

    await limiter.aclose()

    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in outcomes)


def test_one_shard_costs_nothing_of_this(redis: Cluster):
    assert isinstance(limiter_of(redis, shards=1, deadline_seconds=1, measures=Measures()), RedisLimiter)
    assert isinstance(limiter_of(redis, shards=2, deadline_seconds=1, measures=Measures()), ShardedLimiter)


@pytest.mark.parametrize(
    ("error", "said"), [(ResponseError("OOM no room at 10.0.0.1"), "OOM$"), (TimeoutError("10.0.0.1"), "TimeoutError$")]
)
async def test_the_error_names_no_address(limiter: ShardedLimiter, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str):
    with pytest.raises(LimitStoreUnavailableError, match=said):
        await fail_by(error, limiter, monkeypatch)


async def test_an_unexpected_error_is_logged_and_fails_its_callers(limiter: ShardedLimiter, monkeypatch: pytest.MonkeyPatch):
    with capture_logs() as logs, pytest.raises(LimitStoreUnavailableError, match="unexpected"):
        await fail_by(LookupError(), limiter, monkeypatch)

    assert [entry["event"] for entry in logs] == ["a batch ended unexpectedly", "limits are not decided"]


async def fail_by(error: Exception, limiter: ShardedLimiter, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(limiter._limiters[7]._channel, "_script", broken)
    async with asyncio.timeout(0.5):
        await limiter.decide(("7:t",), HOUR, ONE)


async def test_only_a_shard_that_fails_is_lost_until_it_grants_again(limiter: ShardedLimiter, monkeypatch: pytest.MonkeyPatch):
    """Others that grant meanwhile do not make it look well."""
    measures = limiter._limiters[0]._measures
    with monkeypatch.context() as patch, pytest.raises(LimitStoreUnavailableError):
        await fail_by(TimeoutError(), limiter, patch)
    measures.lost[5] = time.monotonic()
    with capture_logs() as logs:
        await count(limiter, "3:t")

    assert (logs, list(measures.lost), measures.decides(time.monotonic())) == ([], [7, 5], False)

    await asyncio.sleep(RETRY_SECONDS)
    await count(limiter, "7:t")
    assert list(measures.lost) == [5]
    await count(limiter, "5:t")
    assert measures.decides(time.monotonic())


async def test_a_refusal_is_remembered_by_whichever_shard(limiter: ShardedLimiter):
    tids = ("7:t",)
    while (await limiter.decide(tids, HOUR, ONE)).granted:
        pass

    assert limiter._limiters[0]._denials is limiter._limiters[7]._denials
    assert not (await limiter.decide(tids, HOUR, ONE)).granted


# --- tiers ---------------------------------------------------------------------------------------------------------------


async def test_a_tier_reaches_the_workers_of_a_cluster_by_its_message_and_the_operator_hears_of_it(
    cluster: ValkeyCluster, redis: Cluster, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tidegate.tiers.source.HEARTBEAT_SECONDS", 30.0)
    publisher = Publisher.connect("frankfurt", cluster.url, timeout_seconds=1.0)
    source = TierSource(redis, worker_id="w", default_tier="pro", last_good=None)
    await source.start()
    try:
        async with publisher.reports() as reports:
            await reports.wait(1.0)
            await publisher.fill([TierDocument(HOUR, uid="u", generation=1)])
            await eventually(lambda: source.snapshot.tiers, 1.0)
            await reports.wait(1.0)

            async def is_reported() -> bool:
                view = await publisher.view()
                return view.revision == source.snapshot.revision and view.is_settled

            await eventually(is_reported, 1.0)
        assert await publisher.publish(TierDocument(HOUR, uid="u", generation=2)) == "published"
        assert (await publisher.read("pro")).document == TierDocument(HOUR, uid="u", generation=2)
        assert await publisher.uids() == {"pro": "u"}
        assert await publisher.retire("pro", "u") == "retired"
        await eventually(lambda: not source.snapshot.tiers, 1.0)
    finally:
        await source.stop()
        await publisher.aclose()


# --- slots that move -----------------------------------------------------------------------------------------------------


@pytest.fixture
def movable(cluster: ValkeyCluster) -> Iterator[ValkeyCluster]:
    """The cluster, put back as it was afterwards."""
    yield cluster
    cluster.restore()


@pytest.mark.parametrize("endpoint", ["ip", "unknown-endpoint"])
async def test_a_slot_that_moved_is_followed(movable: ValkeyCluster, endpoint: str):
    """MOVED refuses, so nothing was charged, and asking elsewhere charges once; also where nodes know their ports alone."""
    first, second, _ = movable.primaries
    name = name_in(movable, first)
    await announce(movable, endpoint)
    async with reached(movable.url) as redis:
        limiter = ShardedLimiter(redis, SHARDS)
        await count(limiter, name)
        movable.flush()

        movable.assign(key_slot(keys.usage(name).encode()), second)
        assert [await count(limiter, name) for _ in range(3)] == [1, 2, 3]

    await announce(movable, "ip")
    async with second.client() as client:
        assert await client.exists(keys.usage(name))


async def announce(cluster: ValkeyCluster, endpoint: str) -> None:
    for node in cluster.primaries:
        async with node.client() as client:
            await client.config_set("cluster-preferred-endpoint-type", endpoint)


async def test_a_slot_on_its_way_is_asked_for_where_it_goes(movable: ValkeyCluster, limiter: ShardedLimiter):
    """A vector that is still here is decided here, one that is not, there; a batch of both is refused for as long as the slot moves."""
    first, second, _ = movable.primaries
    here = name_in(movable, first)
    there = f"{here}2"
    await count(limiter, here)
    async with second.client() as client:
        await client.script_flush()

    movable.begin_to_move(key_slot(keys.usage(here).encode()), first, second)
    counted = [await count(limiter, there), await count(limiter, here), await count(limiter, there), await count(limiter, here)]
    both = await asyncio.gather(count(limiter, here), count(limiter, there), return_exceptions=True)

    assert counted == [1, 2, 2, 3]
    assert all(isinstance(outcome, LimitStoreUnavailableError) for outcome in both)
    async with second.client() as client:
        await client.execute_command("ASKING")
        assert await client.dbsize() == 1


async def test_a_slot_that_is_moved_at_once_takes_its_usage_along(movable: ValkeyCluster, limiter: ShardedLimiter, eventually: Eventually):
    """By the atomic migration of Valkey 9: no decision fails, and none is forgotten."""
    first, second, _ = movable.primaries
    names = [name_in(movable, first, f"t{number}") for number in range(50)]
    slot = key_slot(keys.usage(names[0]).encode())
    counted = [await asyncio.gather(*(count(limiter, name) for name in names))]

    movable.migrate(slot, first, second)
    while (len(counted) < 40 and movable.owner_of(slot) is first) or len(counted) < 5:
        counted.append(await asyncio.gather(*(count(limiter, name) for name in names)))
    await eventually(lambda: movable.owner_of(slot) is second)
    counted.append(await asyncio.gather(*(count(limiter, name) for name in names)))

    assert counted == [[number] * len(names) for number in range(1, len(counted) + 1)]


async def test_a_region_on_a_cluster_remembers_its_store(redis: Cluster):
    memory, mark = RegionalMemory(redis), Incarnation.new()

    assert await memory.recall() is None
    await memory.remember(mark)
    assert await memory.recall() == mark


# --- users ---------------------------------------------------------------------------------------------------------------


def documented(user: str) -> list[list[str]]:
    """The rules of both lines to paste, that of any region and the addition for a Cluster."""
    text = (Path(__file__).parents[2] / "docs/redis.md").read_text()
    return [line.split() for line in re.findall(rf"^ACL SETUSER {user} (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize(
    ("user", "missing"),
    [("tidegate-operator", word) for word in ("", "+cluster|slots")]
    + [("tidegate-api", word) for word in ("", "+cluster|slots", "+asking")],
)
async def test_a_documented_user_needs_few_words_more_on_a_cluster(movable: ValkeyCluster, user: str, missing: str):
    """To find who holds what and, for identities alone, while a slot is on its way."""
    rules, more = documented(user)
    assert more == ["+cluster|slots", "+asking"][: len(more)]
    for node in movable.primaries:
        async with node.client() as client:
            await client.execute_command("ACL", "SETUSER", user, *rules, *(rule for rule in more if rule != missing))
    source = movable.primary_of(keys.usage("0:t"))
    movable.begin_to_move(key_slot(keys.usage("0:t").encode()), source, next(node for node in movable.primaries if node is not source))
    url = movable.url.replace("://", f"://{user}:PASSWORD@")
    try:
        with pytest.raises(TidegateError) if missing else nullcontext():
            if user == "tidegate-operator":
                await publish(url)
            else:
                async with reached(url) as redis:
                    await count(ShardedLimiter(redis, SHARDS), "0:t")
    finally:
        for node in movable.primaries:
            async with node.client() as client:
                await client.acl_deluser(user)


async def publish(url: str) -> None:
    publisher = Publisher.connect("frankfurt", url, timeout_seconds=1.0)
    try:
        await publisher.fill([TierDocument(HOUR, uid="u", generation=1)])
    finally:
        await publisher.aclose()


# --- once ----------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def way_to(cluster: ValkeyCluster, certificates: Certificates | None = None) -> AsyncIterator[Way]:
    """A way to the first primary, that the cluster tells its clients to take."""
    primary = cluster.primaries[0]
    async with Way(primary.port, certificates and certificates.context()).open() as way, primary.client() as client:
        await client.config_set("cluster-announce-port", way.port)
        try:
            yield way
        finally:
            await client.config_set("cluster-announce-port", 0)
            cluster.restore()


async def test_a_decision_whose_reply_is_lost_is_charged_once(cluster: ValkeyCluster):
    """W11."""
    first = cluster.primaries[0]
    name = name_in(cluster, first)
    async with way_to(cluster) as way, reached(f"redis+cluster://127.0.0.1:{way.port}") as redis:
        limiter = ShardedLimiter(redis, SHARDS)
        await count(limiter, name)
        way.loses_replies_to = b"EVALSHA"
        with pytest.raises(LimitStoreUnavailableError):
            await count(limiter, name)
        way.loses_replies_to = b""
        await asyncio.sleep(RETRY_SECONDS)

        assert way.lost == 1
        assert (await limiter.peek((name,), HOUR)).windows[0].used == 2


async def test_a_cluster_is_reached_over_tls(cluster: ValkeyCluster, tmp_path: Path):
    first, certificates = cluster.primaries[0], Certificates(tmp_path / "certificates")
    async with way_to(cluster, certificates) as way:
        async with reached(f"rediss+cluster://127.0.0.1:{way.port}?ssl_ca_certs={certificates.authority}") as redis:
            assert await count(ShardedLimiter(redis, SHARDS), name_in(cluster, first)) == 1

        assert way.handshakes


@pytest.mark.parametrize("url", ["redis+cluster://127.0.0.1:{gone}", "redis+cluster://127.0.0.1:{single}"])
async def test_what_is_no_cluster_is_a_typed_error(valkey: Valkey, port: int, url: str):
    async with reached(url.format(gone=port, single=valkey.port)) as redis:
        with pytest.raises(LimitStoreUnavailableError):
            await count(ShardedLimiter(redis, SHARDS), "0:t")


async def test_a_node_that_is_gone_does_not_stop_a_start(cluster: ValkeyCluster, port: int):
    """Whichever is asked first."""
    for _ in range(8):
        async with reached(f"redis+cluster://127.0.0.1:{port},127.0.0.1:{cluster.nodes[0].port}") as redis:
            limiter = ShardedLimiter(redis, SHARDS)
            assert all([(await limiter.decide((keys.sharded("t", shard),), HOUR, ONE)).granted for shard in range(SHARDS)])


async def test_who_gives_up_leaves_the_look_at_the_cluster_to_the_others(cluster: ValkeyCluster):
    async with way_to(cluster) as way, reached(f"redis+cluster://127.0.0.1:{way.port}") as redis:
        script = redis.register_script("return 1")
        way.flows.clear()
        gone, stayed = (asyncio.ensure_future(script(keys=[keys.usage(name_in(cluster, cluster.primaries[0]))])) for _ in range(2))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        way.flows.set()

        assert await stayed == 1
        assert gone.cancelled()


async def test_a_primary_that_hangs_is_given_up_in_time(cluster: ValkeyCluster):
    async with way_to(cluster) as way, reached(f"redis+cluster://127.0.0.1:{way.port}", timeout_seconds=0.25) as redis:
        script, key = redis.register_script("return 1"), keys.usage(name_in(cluster, cluster.primaries[0]))
        assert await script(keys=[key]) == 1
        way.flows.clear()

        with pytest.raises(RedisError):
            async with asyncio.timeout(1):
                await script(keys=[key])
        way.flows.set()


async def test_a_subscription_passes_over_a_node_that_is_gone(cluster: ValkeyCluster, port: int, eventually: Eventually):
    async with reached(f"redis+cluster://127.0.0.1:{port},127.0.0.1:{cluster.nodes[0].port}", timeout_seconds=0.25) as redis:
        source = TierSource(redis, worker_id="w", default_tier="pro", last_good=None)
        await source.start()
        try:
            await eventually(lambda: source.connected)
        finally:
            await source.stop()


async def test_who_was_sent_on_goes_there_at_once_the_next_time(movable: ValkeyCluster, eventually: Eventually):
    first, second, _ = movable.primaries
    name = name_in(movable, first)
    slot = key_slot(keys.usage(name).encode())
    async with reached(movable.url) as redis:
        limiter = ShardedLimiter(redis, SHARDS)
        await count(limiter, name)
        movable.flush()
        movable.assign(slot, second)
        await count(limiter, name)

        await eventually(lambda: redis._primary(slot) == Address("127.0.0.1", second.port), 1.0)


async def test_a_node_that_holds_nothing_any_more_is_forgotten_but_not_while_it_is_asked(cluster: ValkeyCluster, port: int):
    """A primary whose first slot is on its way would lose the calls that it has begun to answer."""
    other = Address("127.0.0.1", port)
    async with reached(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}") as redis:
        redis._client(other)
        redis._under_way[other] += 1
        await redis._look_again()
        assert other in redis._clients
        redis._under_way.clear()
        await redis._look_again()

        assert other not in redis._clients


async def test_a_node_that_knows_of_no_other_is_not_believed(cluster: ValkeyCluster, valkeys: Callable[..., Valkey]):
    """One that lost its disk, or was never let in: the shards of all others would fail with its own."""
    fresh = valkeys("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    async with reached(f"{cluster.url},127.0.0.1:{fresh.port}") as redis:
        for _ in range(16):
            await redis._look_again()

            assert {one.primary.port for one in redis._ranges} == {node.port for node in cluster.primaries}
    usage = RegionUsage("dublin", RegionUrl(f"redis+cluster://127.0.0.1:{fresh.port},127.0.0.1:{cluster.nodes[0].port}"))
    assert [peeked.state.used for peeked in usage.peek(("0:nobody",), HOUR)] == [0]


async def test_a_stop_fails_whoever_waits_for_an_answer(cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch, eventually: Eventually):
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async with reached(cluster.url) as redis:
        limiter = ShardedLimiter(redis, SHARDS, deadline_seconds=60)
        channel = limiter._limiters[0]._channel
        monkeypatch.setattr(channel, "_script", never)
        waiting = asyncio.ensure_future(limiter.decide(("0:t",), HOUR, ONE))
        await eventually(lambda: channel._calls)

        async with asyncio.timeout(1):
            await limiter.aclose()
            with pytest.raises(LimitStoreUnavailableError):
                await waiting


async def test_what_was_given_up_before_it_was_sent_is_not_charged(
    cluster: ValkeyCluster, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    """Its client has another answer by then."""
    seed, primary = cluster.nodes[0], cluster.primaries[1]
    name, gate = name_in(cluster, primary), asyncio.Event()
    async with reached(f"redis+cluster://127.0.0.1:{seed.port}") as redis:
        limiter = ShardedLimiter(redis, SHARDS, deadline_seconds=60)
        channel = limiter._limiters[keys.shard_of(name)]._channel
        await redis._look_again()
        pool = redis._client(Address("127.0.0.1", primary.port)).connection_pool
        connect = pool.get_connection

        async def connect_late() -> Any:
            await gate.wait()
            return await connect()

        monkeypatch.setattr(pool, "get_connection", connect_late)
        given_up = asyncio.ensure_future(limiter.decide((name,), HOUR, ONE))
        await eventually(lambda: redis._under_way.total())
        given_up.cancel()
        for reply in channel._calls.values():
            reply.cancel()
        gate.set()
        await eventually(lambda: not channel._calls)

        async def counted() -> int:
            with suppress(LimitStoreUnavailableError):
                return await count(limiter, name)
            return 0

        assert await eventually(counted) == 1
