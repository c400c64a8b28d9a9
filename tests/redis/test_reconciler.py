"""The reconciler with real regions (Valkey) and real tier sources as workers: what is wanted is enforced, whatever happens to a region."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tidegate.contract import keys
from tidegate.contract.codec import Heartbeat, decode_tier, encode_heartbeat
from tidegate.limits.decision import Amounts
from tidegate.limits.errors import LimitStoreUnavailableError
from tidegate.limits.measures import Measures
from tidegate.limits.redis import RedisLimiter
from tidegate.tiers.source import TierSource
from tidegate_operator.desired import DesiredTier, Listing, desired_tier
from tidegate_operator.errors import ReportError, SourceUnavailableError
from tidegate_operator.lane_state import Upkeep
from tidegate_operator.ports import LaneUpkeep
from tidegate_operator.publisher import Publisher
from tidegate_operator.reconciler import Reconciler

Eventually = Callable[..., Awaitable[object]]


def wanted(name: str = "free", *, limit: int = 10, generation: int = 1, uid: str = "a") -> DesiredTier:
    spec = {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}
    return desired_tier(name, uid, generation, spec, status={})


class Objects:
    """The API server in small: the objects that are there, and the last status written of each."""

    def __init__(self, *tiers: DesiredTier) -> None:
        self.tiers = {tier.name: tier for tier in tiers}
        self.statuses: dict[str, Mapping[str, Any]] = {}
        self.writes = 0
        self.is_complete = True
        self.failures = 0
        self.failure: Exception = SourceUnavailableError("no list now")

    async def list(self) -> Listing:
        if self.failures:
            self.failures -= 1
            raise self.failure
        return Listing(dict(self.tiers), self.is_complete)

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise ReportError("no status now")
        self.statuses[tier.name] = status
        if tier.name in self.tiers:
            self.tiers[tier.name] = replace(self.tiers[tier.name], status=status)
        self.writes += 1

    def is_ready(self, name: str = "free", generation: int = 1) -> bool:
        status = self.statuses.get(name)
        return bool(status) and status["activeGeneration"] == generation and status["conditions"][3]["status"] == "True"

    def degraded(self, name: str = "free") -> tuple[str, str]:
        """Reason and message, both empty while it is not."""
        conditions = {condition["type"]: condition for condition in self.statuses.get(name, {}).get("conditions", ())}
        found = conditions.get("Degraded", {"status": "False"})
        return (found["reason"], found["message"]) if found["status"] == "True" else ("", "")

    def states(self, name: str = "free") -> dict[str, str]:
        return {region["name"]: region["state"] for region in self.statuses.get(name, {}).get("regions", ())}


@asynccontextmanager
async def operator(objects: Objects, lanes: LaneUpkeep | None = None, **servers: Any) -> AsyncIterator[Reconciler]:
    publishers = [Publisher.connect(name, server.url, timeout_seconds=0.5) for name, server in servers.items()]
    reconciler = Reconciler(publishers, objects, objects, lanes)
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler
        assert not task.done(), task
    finally:
        task.cancel()
        _, running = await asyncio.wait([task], timeout=5)
        assert not running, "the reconciler does not end"
        for publisher in publishers:
            await publisher.aclose()


@pytest.fixture
async def workers() -> AsyncIterator[Callable[..., Awaitable[TierSource]]]:
    async with AsyncExitStack() as stack:

        async def start(server: Any, name: str = "worker", **options: Any) -> TierSource:
            client: Redis = await stack.enter_async_context(server.client(timeout=0.25))
            source = TierSource(client, worker_id=name, default_tier="free", last_good=None, **options)
            await source.start()
            stack.push_async_callback(source.stop)
            return source

        yield start


async def stored(server: Any) -> dict[str, int]:
    """Names of the published tiers with the limit of their first window."""
    async with server.client() as client:
        texts = await client.hgetall(keys.TIERS)
    return {name.decode(): decode_tier(name.decode(), text).tier.windows[0].limit for name, text in texts.items()}


def holds(server: Any, **limits: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return await stored(server) == limits

    return check


async def test_a_tier_is_ready_once_every_worker_of_every_region_enforces_it(valkeys: Any, workers: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted())
    sources = [await workers(frankfurt, "one"), await workers(frankfurt, "two"), await workers(dublin)]

    async with operator(objects, frankfurt=frankfurt, dublin=dublin):
        await eventually(objects.is_ready, 3)

    assert [source.tier("free").windows[0].limit for source in sources] == [10, 10, 10]
    assert [region["workers"] for region in objects.statuses["free"]["regions"]] == [{"ready": 2, "applied": 2}, {"ready": 1, "applied": 1}]


async def test_an_edit_is_enforced_within_a_second(valkey: Any, workers: Any, eventually: Eventually):
    objects = Objects(wanted())
    source = await workers(valkey)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(objects.is_ready)

        reconciler.put(wanted(limit=20, generation=2))

        await eventually(lambda: objects.is_ready(generation=2), 1)
    assert source.tier("free").windows[0].limit == 20


async def test_an_edit_of_one_tier_leaves_the_status_of_the_others_alone(valkey: Any, workers: Any, eventually: Eventually):
    objects = Objects(wanted(), wanted("pro", uid="b"))
    await workers(valkey)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(lambda: objects.is_ready("free") and objects.is_ready("pro"))
        before = objects.statuses["pro"]

        reconciler.put(wanted(limit=20, generation=2))
        await eventually(lambda: objects.is_ready(generation=2))

    assert objects.statuses["pro"] is before


async def test_each_edit_of_one_tier_leaves_the_status_of_the_others_alone(
    valkey: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    """Also one that comes long after another: what passed then is over."""
    objects, now = Objects(wanted(), wanted("pro", uid="b")), time.monotonic
    async with operator(objects, frankfurt=valkey) as reconciler, valkey.client() as client:

        async def settle(generation: int) -> None:
            await eventually(lambda: objects.statuses["free"]["regions"][0]["appliedGeneration"] == generation)
            await report_enforced(client)
            await eventually(lambda: objects.is_ready("free", generation) and objects.is_ready("pro"))

        await eventually(holds(valkey, free=10, pro=10))
        await eventually(lambda: len(objects.statuses) == 2)
        await settle(1)
        before = objects.statuses["pro"]
        for generation in (2, 3):
            reconciler.put(replace(wanted(limit=generation, generation=generation), status=objects.statuses["free"]))
            await eventually(holds(valkey, free=generation, pro=10))
            reconciler.look_at("pro")
            await eventually(lambda: "pro" in reconciler._passing_since)
            await settle(generation)
            await reconciler.resync()
            await eventually(lambda: not reconciler._queue._waiting and not reconciler._queue._busy)
            monkeypatch.setattr("tidegate_operator.reconciler.time", SimpleNamespace(monotonic=lambda: now() + 3600))

    assert objects.statuses["pro"] is before


async def report_enforced(client: Redis) -> None:
    """As a worker that has just taken up the region's revision does."""
    seconds, microseconds = await client.time()
    beat = Heartbeat(int(await client.get(keys.REVISION)), seconds * 1000 + microseconds // 1000, ready=True)
    await client.hset(keys.WORKERS, "by-hand", encode_heartbeat(beat))
    await client.publish(keys.WORKERS_CHANNEL, "by-hand")


async def test_looking_again_writes_nothing_while_nothing_changed(valkey: Any, workers: Any, eventually: Eventually):
    objects = Objects(wanted())
    await workers(valkey)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(objects.is_ready)
        before = objects.statuses["free"]

        for _ in range(3):
            await reconciler.resync()
        await publish_foreign(valkey, "probe")  # its retirement comes after the three looks in the queue
        await reconciler.resync()
        await eventually(holds(valkey, free=10))

        assert objects.statuses["free"] is before


async def test_an_edit_does_not_wait_until_a_resync_has_looked_at_all_tiers(
    valkey: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    objects = Objects(*(wanted(f"tier-{number}", uid=str(number)) for number in range(200)))
    looks, original = list[str](), Publisher.read

    async def read(self: Publisher, name: str | None) -> Any:
        if name:
            looks.append(name)
        return await original(self, name)

    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(lambda: len(objects.statuses) == 200)
        monkeypatch.setattr(Publisher, "read", read)

        await reconciler.resync()
        looks.clear()
        reconciler.put(wanted("tier-199", uid="199", limit=20, generation=2))

        await eventually(lambda: len(looks) >= 200)
    assert looks.index("tier-199") <= 8


async def test_the_echo_of_a_status_is_no_reason_to_look_again(valkey: Any, workers: Any, eventually: Eventually):
    """Every status that is written comes back as an event."""
    objects = Objects(wanted())
    await workers(valkey)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(objects.is_ready)
        looks: list[str] = []
        reconciler._queue.add = lambda name, **_: looks.append(name)

        reconciler.put(objects.tiers["free"])
        reconciler.put(replace(objects.tiers["free"], status={"tampered": True}))

    assert looks == ["free"]


async def test_a_flushed_region_is_refilled_within_two_seconds(valkey: Any, workers: Any, eventually: Eventually):
    """Regional Redis is rebuildable: nobody has to notice that it came back empty."""
    objects = Objects(wanted(), wanted("pro", uid="b", limit=99))
    await workers(valkey)
    async with operator(objects, frankfurt=valkey):
        await eventually(lambda: objects.is_ready("free") and objects.is_ready("pro"))

        valkey.flush()

        await eventually(holds(valkey, free=10, pro=99), 2)


async def observe(source: TierSource, seen: list[set[str]]) -> None:
    """Note the tiers of every snapshot: of two swaps in a row one shows in between, for each waits for Redis."""
    snapshot = source.snapshot
    while True:
        if source.snapshot is not snapshot:
            snapshot = source.snapshot
            seen.append(set(snapshot.tiers))
        await asyncio.sleep(0)


def region_of(server: Any, *tiers: DesiredTier) -> Callable[[], Awaitable[bool]]:
    return holds(server, **{tier.name: 10 for tier in tiers})


async def test_workers_miss_no_tier_while_their_region_is_refilled(valkey: Any, workers: Any, eventually: Eventually):
    """They take what a revision stands for as a whole, and an emptied region has one again with its last tier at the earliest."""
    tiers = [wanted(f"tier-{number}", uid=str(number)) for number in range(100)]
    source, seen = await workers(valkey), list[set[str]]()
    observing = asyncio.create_task(observe(source, seen))
    async with operator(Objects(*tiers), frankfurt=valkey):
        for flushes in range(1, 4):
            await eventually(region_of(valkey, *tiers))
            await eventually(lambda flushes=flushes: len(seen) >= flushes)
            valkey.flush()
        await eventually(lambda: len(seen) >= 4)
    observing.cancel()

    assert all(names == {tier.name for tier in tiers} for names in seen)


async def test_workers_miss_no_tier_while_their_region_gets_back_tiers_that_it_lost_without_its_revision(
    valkey: Any, workers: Any, eventually: Eventually
):
    """As a server does that evicts. A new tier is what is looked at first, and of the others no worker knows that they are not there."""
    tiers = [wanted(f"tier-{number}", uid=str(number)) for number in range(20)]
    source, seen = await workers(valkey), list[set[str]]()
    async with operator(Objects(*tiers), frankfurt=valkey) as reconciler, valkey.client() as client:
        await eventually(lambda: len(source.snapshot.tiers) == 20)
        observing = asyncio.create_task(observe(source, seen))
        await client.delete(keys.TIERS)

        tiers.append(wanted("tier-20", uid="20"))
        reconciler.put(tiers[-1])

        await eventually(region_of(valkey, *tiers))
        await eventually(lambda: seen and len(seen[-1]) == 21)
    observing.cancel()

    assert all(names == {tier.name for tier in tiers} for names in seen)


async def test_a_refill_has_the_last_good_spec_of_a_tier_that_is_refused_now(valkeys: Any, workers: Any, eventually: Eventually):
    """This operator never saw it, and another region holds it."""
    frankfurt, dublin = valkeys(), valkeys()
    async with operator(Objects(wanted(), wanted("pro", uid="b")), frankfurt=frankfurt, dublin=dublin):
        await eventually(holds(frankfurt, free=10, pro=10))
        await eventually(holds(dublin, free=10, pro=10))
    source, seen = await workers(frankfurt), list[set[str]]()
    observing = asyncio.create_task(observe(source, seen))
    frankfurt.flush()

    async with operator(
        Objects(wanted("pro", uid="b"), desired_tier("free", "a", 2, {"windows": []}, status={})), frankfurt=frankfurt, dublin=dublin
    ):
        await eventually(lambda: seen)
    observing.cancel()

    assert seen[0] == {"free", "pro"}


async def test_an_empty_region_is_left_alone_until_the_wanted_tiers_are_listed(valkey: Any, eventually: Eventually):
    """Of most of them no event has come yet."""
    objects, listed = Objects(wanted(), wanted("pro", uid="b")), asyncio.Event()
    original = objects.list

    async def listing() -> Listing:
        await listed.wait()
        return await original()

    objects.list = listing
    async with operator(objects, frankfurt=valkey) as reconciler, valkey.client() as client:
        reconciler.put(wanted())
        await eventually(lambda: "free" in objects.statuses)
        assert await client.keys() == []
        assert objects.states() == {"frankfurt": "Progressing"}

        listed.set()

        await eventually(holds(valkey, free=10, pro=10))


async def test_a_region_is_refilled_by_one_call(valkey: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch):
    """Though eight tiers at a time find it empty, and each call carries all of them."""
    tiers, fills = [wanted(f"tier-{number}", uid=str(number)) for number in range(50)], list[int]()
    original = Publisher.fill

    async def fill(self: Publisher, documents: Any) -> str:
        fills.append(len(documents))
        return await original(self, documents)

    monkeypatch.setattr(Publisher, "fill", fill)
    objects = Objects(*tiers)
    async with operator(objects, frankfurt=valkey):
        await eventually(lambda: len(objects.statuses) == 50)

    assert fills == [50]


async def test_a_region_that_refuses_to_be_filled_is_not_sent_all_tiers_for_each_of_them(
    valkeys: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    full, objects, attempts = valkeys(), Objects(*(wanted(f"tier-{number}", uid=str(number)) for number in range(50))), list[int]()
    original = Publisher.fill

    async def fill(self: Publisher, documents: Any) -> str:
        attempts.append(len(documents))
        return await original(self, documents)

    monkeypatch.setattr(Publisher, "fill", fill)
    async with operator(objects, frankfurt=full), full.client() as client:
        await eventually(lambda: attempts)
        await eventually(region_of(full, *objects.tiers.values()))
        attempts.clear()
        await client.config_set("maxmemory", "1")
        full.flush()
        await eventually(lambda: {objects.degraded(name)[0] for name in objects.tiers} == {"WriteRefused"})

        assert len(attempts) < 10
        await client.config_set("maxmemory", "0")
        await eventually(region_of(full, *objects.tiers.values()), 10)


async def test_a_tier_that_goes_while_its_region_is_refilled_stays_away(
    valkey: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    """It is in what is on its way, and not there yet when it is looked for."""
    objects, filling, go_on, original = Objects(wanted(), wanted("pro", uid="b")), asyncio.Event(), asyncio.Event(), Publisher.fill

    async def fill(self: Publisher, documents: Any) -> str:
        filling.set()
        await go_on.wait()
        return await original(self, documents)

    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(holds(valkey, free=10, pro=10))
        await eventually(lambda: len(objects.statuses) == 2)
        monkeypatch.setattr(Publisher, "fill", fill)
        valkey.flush()
        reconciler.put(wanted(limit=20, generation=2))
        await filling.wait()

        del objects.tiers["pro"]
        with capture_logs() as logs:
            reconciler.remove("pro", "b")
            await eventually(lambda: "pro" in reconciler._queue._failures)
        go_on.set()

        await eventually(holds(valkey, free=20))
    assert waiting_regions(logs) == []


def waiting_regions(logs: list[Any]) -> list[Any]:
    """Of the lines that say that a tier is not retired yet."""
    return [entry["regions"] for entry in logs if entry["event"].startswith("tier not retired yet")]


async def test_no_region_waits_while_another_is_refilled(valkeys: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch):
    """Though each tier that is looked at finds that one empty."""
    frankfurt, dublin, filling, go_on, original = valkeys(), valkeys(), asyncio.Event(), asyncio.Event(), Publisher.fill
    objects = Objects(*(wanted(f"tier-{number}", uid=str(number)) for number in range(30)))
    edited = dict.fromkeys(objects.tiers, 10) | {"tier-29": 20}

    async def fill(self: Publisher, documents: Any) -> str:
        filling.set()
        await go_on.wait()
        return await original(self, documents)

    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(lambda: len(objects.statuses) == 30)
        await eventually(region_of(dublin, *objects.tiers.values()))
        monkeypatch.setattr(Publisher, "fill", fill)
        frankfurt.flush()
        await asyncio.wait_for(filling.wait(), 10)

        reconciler.put(wanted("tier-29", uid="29", limit=20, generation=2))

        await eventually(holds(dublin, **edited), 0.9)
        go_on.set()
        await eventually(holds(frankfurt, **edited))


async def test_a_report_that_comes_between_the_looks_at_two_regions_is_not_overlooked(
    valkeys: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
):
    """Also while the status that said so before is not written yet."""
    frankfurt, dublin, objects, original = valkeys(), valkeys(), Objects(wanted()), Publisher.read
    written, seen, go_on, report = asyncio.Event(), asyncio.Event(), asyncio.Event(), objects.report
    slow = set[str]()

    async def read(self: Publisher, name: str | None) -> Any:
        if name == "free" and self.region in slow:
            await go_on.wait()
        found = await original(self, name)
        if name == "free" and slow and self.region not in slow:
            seen.set()
        return found

    async def report_later(tier: DesiredTier, status: Mapping[str, Any]) -> None:
        await written.wait()
        await report(tier, status)

    monkeypatch.setattr(Publisher, "read", read)
    objects.report = report_later
    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler, frankfurt.client() as one, dublin.client() as other:

        async def enforce() -> None:
            for client in (one, other):
                await report_enforced(client)
            await eventually(lambda: all(watch._view and watch._view.is_settled for watch in reconciler._watches))

        await eventually(holds(dublin, free=10))
        await eventually(holds(frankfurt, free=10))
        await enforce()
        await eventually(lambda: "free" in reconciler._finished)
        objects.tiers["pro"] = wanted("pro", uid="b")
        reconciler.put(objects.tiers["pro"])
        await eventually(lambda: not any(watch._view and watch._view.is_settled for watch in reconciler._watches))

        slow.add("dublin")
        reconciler.look_at("free")
        await asyncio.wait_for(seen.wait(), 5)
        await enforce()
        go_on.set()
        written.set()

        await eventually(objects.is_ready, 5)


async def test_an_edit_right_after_a_flush_does_not_hide_the_flush(valkey: Any, eventually: Eventually):
    objects = Objects(wanted(), wanted("pro", uid="b", limit=99))
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(holds(valkey, free=10, pro=99))
        await eventually(lambda: len(objects.statuses) == 2)

        valkey.flush()
        reconciler.put(wanted(limit=20, generation=2))

        await eventually(holds(valkey, free=20, pro=99), 2)


async def test_one_lost_region_shows_and_the_others_go_on(valkeys: Any, workers: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted())
    await workers(frankfurt)
    await workers(dublin)
    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(objects.is_ready)

        dublin.kill()
        await eventually(lambda: objects.states() == {"frankfurt": "Ready", "dublin": "Unreachable"}, 3)
        reconciler.put(wanted(limit=20, generation=2))

        await eventually(holds(frankfurt, free=20), 1)
        dublin.start()
        await eventually(lambda: objects.is_ready(generation=2), 8)
    assert await stored(dublin) == {"free": 20}


@pytest.mark.parametrize(
    ("loss", "reason", "said"),
    [
        ("killed", "RegionUnreachable", "so its workers may not decide limits"),
        ("frozen", "RegionUnreachable", "so its workers may not decide limits"),
        ("full", "NoReadyWorkers", "none decides limits by its Redis"),
    ],
)
async def test_every_tier_says_that_a_region_lost_its_redis_until_it_is_back(
    valkeys: Any, workers: Any, eventually: Eventually, loss: str, reason: str, said: str
):
    """Store loss is visible, to the operator by what it cannot read or by workers that fall silent."""
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted(), wanted("pro", uid="b"))
    await workers(frankfurt)
    await workers(dublin)
    async with operator(objects, frankfurt=frankfurt, dublin=dublin), dublin.client() as client:
        await eventually(lambda: objects.is_ready("free") and objects.is_ready("pro"))
        if loss == "full":
            await client.config_set("maxmemory", "1")
        else:
            {"killed": dublin.kill, "frozen": dublin.freeze}[loss]()

        await eventually(lambda: objects.degraded("free")[0] == objects.degraded("pro")[0] == reason, 8)
        told = objects.degraded()[1]
        if loss == "full":
            await client.config_set("maxmemory", "0")
        else:
            {"killed": dublin.start, "frozen": dublin.thaw}[loss]()
        await eventually(lambda: objects.degraded("free") == objects.degraded("pro") == ("", ""), 15)

    assert told.startswith("dublin: ")
    assert told.endswith(said)


async def test_every_tier_says_that_workers_do_not_decide_though_their_redis_answers(valkeys: Any, workers: Any, eventually: Eventually):
    """A user that may not touch usage, a script that takes too long: heartbeats go on as if nothing were wrong."""
    dublin, objects, measures = valkeys(), Objects(wanted(), wanted("pro", uid="b")), Measures()
    await workers(dublin, "well")
    source = await workers(dublin, "unwell", decides=lambda: measures.decides(time.monotonic()))
    async with operator(objects, dublin=dublin), dublin.client() as client:
        limiter = RedisLimiter(client, measures=measures)
        await eventually(lambda: objects.is_ready("free") and objects.is_ready("pro"))

        async def is_degraded(expected: str) -> bool:
            with suppress(LimitStoreUnavailableError):
                await limiter.decide(("t",), source.tier("free"), Amounts())
            return {objects.degraded(name)[0] for name in ("free", "pro")} == {expected}

        async with dublin.client() as administrator:
            await administrator.execute_command("ACL", "SETUSER", "default", "resetkeys", "~tg:1:{tiers}*")
            await eventually(lambda: is_degraded("LimitsNotDecided"), 3)
            told = objects.degraded()[1]
            await administrator.execute_command("ACL", "SETUSER", "default", "allkeys")
        await eventually(lambda: is_degraded(""), 3)
        await limiter.aclose()

    assert told == "dublin: its Redis does not decide limits for some workers, so onStoreLoss does"


@pytest.mark.parametrize("silent", ["report", "keep"])
async def test_no_region_waits_for_an_api_server_that_does_not_answer(
    valkeys: Any, workers: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch, silent: str
):
    """Every tier has a status to be written, or a lane to be looked after, and each of these waits."""
    frankfurt, dublin = valkeys(), valkeys()
    objects = Objects(*(wanted(f"tier-{number}", uid=str(number)) for number in range(30)))
    lanes, limits = NoLanes(), dict.fromkeys(objects.tiers, 10)
    await workers(frankfurt)
    async with operator(objects, lanes, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(holds(dublin, **limits))
        await eventually(lambda: len(objects.statuses) == 30)
        waiting = list[str]()

        async def wait(tier: DesiredTier, *_: object) -> None:
            waiting.append(tier.name)
            await asyncio.Event().wait()

        monkeypatch.setattr(objects if silent == "report" else lanes, silent, wait)
        dublin.kill()
        await eventually(lambda: len(waiting) >= 8)

        frankfurt.flush()
        reconciler.put(wanted("tier-29", uid="29", limit=20, generation=2))

        await eventually(holds(frankfurt, **limits | {"tier-29": 20}), 0.9)


class NoLanes:
    """Keeps no lane, and says so at once."""

    async def keep(self, tier: DesiredTier) -> Upkeep:
        return Upkeep()


async def test_a_frozen_region_does_not_hold_up_the_others(valkeys: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted())
    dublin.freeze()

    async with operator(objects, frankfurt=frankfurt, dublin=dublin):
        await eventually(holds(frankfurt, free=10), 1)
        await eventually(lambda: objects.states().get("dublin") == "Unreachable", 3)


async def test_two_operators_at_once_converge_on_the_newer_generation(valkey: Any, workers: Any, eventually: Eventually):
    """A stale operator that still runs cannot roll a tier back."""
    fresh, stale = Objects(wanted(limit=20, generation=2)), Objects(wanted(limit=10, generation=1))
    await workers(valkey)
    async with operator(fresh, frankfurt=valkey), operator(stale, frankfurt=valkey), valkey.client() as client:
        await eventually(lambda: fresh.is_ready(generation=2))
        before = await client.get(keys.REVISION)
        await eventually(lambda: stale.states() == {"frankfurt": "Progressing"})

        assert await stored(valkey) == {"free": 20}
        assert await client.get(keys.REVISION) == before


async def test_a_removed_tier_leaves_every_region(valkeys: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted())
    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(holds(frankfurt, free=10))

        reconciler.remove("free", "a")

        await eventually(holds(frankfurt), 2)
        await eventually(holds(dublin), 2)


async def test_a_tier_that_is_made_again_and_removed_again_at_once_leaves_what_its_first_object_left_in_a_region(
    valkey: Any, eventually: Eventually
):
    objects = Objects(wanted())
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(holds(valkey, free=10))
        objects.tiers.clear()

        reconciler.remove("free", "a")
        reconciler.put(wanted(uid="b"))
        reconciler.remove("free", "b")

        await eventually(holds(valkey), 2)


async def test_a_removal_does_not_wait_for_a_lost_region_and_reaches_it_later(valkeys: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys("--appendonly", "yes"), Objects(wanted())
    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(holds(dublin, free=10))
        dublin.stop()
        objects.tiers.clear()

        with capture_logs() as logs:
            reconciler.remove("free", "a")

            await eventually(holds(frankfurt), 2)
            await eventually(lambda: waiting_regions(logs))
        dublin.start()
        assert await stored(dublin) == {"free": 10}
        await eventually(holds(dublin), 8)
    assert waiting_regions(logs) == [["dublin"]]


async def test_a_removal_that_a_region_refuses_is_tried_again_and_told_once(valkey: Any, eventually: Eventually):
    objects = Objects(wanted(), wanted("pro", uid="b"))
    async with operator(objects, frankfurt=valkey) as reconciler, valkey.client() as client:
        await eventually(holds(valkey, free=10, pro=10))
        await client.execute_command("ACL", "SETUSER", "default", "-hdel")
        del objects.tiers["free"]

        with capture_logs() as logs:
            reconciler.remove("free", "a")
            await eventually(lambda: reconciler._queue._failures.get("free", 0) > 1)
        await client.execute_command("ACL", "SETUSER", "default", "+hdel")

        await eventually(holds(valkey, pro=10))
    assert waiting_regions(logs) == [["frankfurt"]]


async def test_a_tier_whose_object_a_finalizer_holds_says_where_it_is_not_retired_yet(valkeys: Any, eventually: Eventually):
    frankfurt, dublin, objects = valkeys(), valkeys("--appendonly", "yes"), Objects(wanted())

    def programmed() -> str:
        return str(objects.statuses["free"]["conditions"][1]["message"])

    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler:
        await eventually(holds(dublin, free=10))
        dublin.stop()
        objects.tiers.clear()

        reconciler.put(replace(wanted(), held_by=("example.com/theirs",)))

        await eventually(lambda: programmed() == "Not yet retired in dublin", 5)
        dublin.start()
        await eventually(lambda: programmed() == "No region holds it any more", 8)
        assert await stored(dublin) == await stored(frankfurt) == {}


async def test_removing_an_older_object_of_the_name_changes_nothing(valkey: Any, eventually: Eventually):
    objects = Objects(wanted(uid="new"))
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(holds(valkey, free=10))

        reconciler.remove("free", "old")
        reconciler.put(wanted("pro", uid="b"))  # comes after the removal in the queue

        await eventually(holds(valkey, free=10, pro=10))


@pytest.mark.parametrize(
    "ages",
    [
        (("2026-11-25T12:00:01Z", 0), ("2026-11-25T12:00:02Z", 0)),
        (("2026-11-25T12:00:01Z", 98), ("2026-11-25T12:00:01Z", 102)),
        (("2026-11-25T12:00:02Z", 98), ("2026-11-25T12:00:01Z", 102)),
    ],
)
async def test_late_news_of_an_older_object_of_the_name_changes_nothing(valkey: Any, eventually: Eventually, ages: Any):
    """An object that was made anew outlives what is still to be heard of its predecessor, also of the same second, or made by a
    server whose clock is behind."""
    old, new = (
        replace(wanted(uid=uid, limit=limit), created=created, resource_version=version)
        for (uid, limit), (created, version) in zip((("old", 1), ("new", 2)), ages, strict=True)
    )
    objects = Objects(new)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(holds(valkey, free=2))

        reconciler.put(replace(old, generation=7))
        reconciler.put(wanted("pro", uid="b"))  # comes after it in the queue
        await eventually(holds(valkey, free=2, pro=10))
        reconciler.remove("free", "old")
        reconciler.put(wanted("team", uid="c"))

        await eventually(holds(valkey, free=2, pro=10, team=10))


async def test_what_no_object_wants_goes_once_a_complete_listing_says_so(valkey: Any, eventually: Eventually):
    """A tier that was deleted while no operator ran does not stay for ever."""
    async with operator(Objects(wanted(), wanted("pro", uid="b")), frankfurt=valkey):
        await eventually(holds(valkey, free=10, pro=10))

    async with operator(Objects(wanted()), frankfurt=valkey):
        await eventually(holds(valkey, free=10))


async def test_a_start_retires_nothing_before_the_objects_are_known(valkey: Any, eventually: Eventually):
    async with operator(Objects(wanted()), frankfurt=valkey):
        await eventually(holds(valkey, free=10))
    blind = Objects(wanted("pro", uid="b"))
    blind.is_complete = False

    async with operator(blind, frankfurt=valkey):
        await eventually(holds(valkey, free=10, pro=10))
        blind.is_complete, blind.tiers["free"] = True, wanted()
        await eventually(lambda: "pro" in blind.statuses)

        assert await stored(valkey) == {"free": 10, "pro": 10}


async def test_a_refused_spec_leaves_the_last_good_one_enforced_and_refills_it(valkey: Any, workers: Any, eventually: Eventually):
    objects = Objects(wanted())
    await workers(valkey)
    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(objects.is_ready)

        reconciler.put(desired_tier("free", "a", 2, {"windows": []}, status=objects.statuses["free"]))
        await eventually(lambda: objects.statuses["free"]["observedGeneration"] == 2)
        valkey.flush()

        await eventually(holds(valkey, free=10), 2)
    assert objects.statuses["free"]["conditions"][0]["reason"] == "InvalidSpec"


async def test_a_spec_refused_at_the_start_leaves_the_region_alone(valkey: Any, eventually: Eventually):
    async with operator(Objects(wanted()), frankfurt=valkey):
        await eventually(holds(valkey, free=10))
    broken = Objects(desired_tier("free", "a", 2, {"windows": []}, status={}))

    async with operator(broken, frankfurt=valkey):
        await eventually(lambda: "free" in broken.statuses)

        assert await stored(valkey) == {"free": 10}
    assert broken.statuses["free"]["regions"][0]["appliedGeneration"] == 1


async def test_a_status_that_could_not_be_written_is_written_later(valkey: Any, eventually: Eventually):
    objects = Objects()
    async with operator(objects, frankfurt=valkey) as reconciler:
        await reconciler.resync()
        objects.failures = 2

        objects.tiers["free"] = wanted()
        reconciler.put(wanted())

        await eventually(lambda: "free" in objects.statuses, 4)


@pytest.mark.parametrize("failure", [SourceUnavailableError("no list now"), OSError("which nobody expected")])
async def test_a_listing_that_fails_first_is_tried_again(valkey: Any, eventually: Eventually, failure: Exception):
    objects = Objects(wanted())
    objects.failures, objects.failure = 1, failure

    async with operator(objects, frankfurt=valkey):
        await eventually(holds(valkey, free=10), 4)


async def test_a_worker_that_leaves_is_no_longer_counted(valkey: Any, workers: Any, eventually: Eventually):
    objects = Objects(wanted())
    await workers(valkey, "one")
    leaving = await workers(valkey, "two")

    def ready() -> int:
        return int(objects.statuses["free"]["regions"][0]["workers"]["ready"])

    async with operator(objects, frankfurt=valkey) as reconciler:
        await eventually(objects.is_ready)
        await eventually(lambda: ready() == 2)

        await leaving.stop()
        await reconciler.resync()

        await eventually(lambda: ready() == 1, 3)


async def publish_foreign(server: Any, name: str) -> None:
    """A tier that no object wants."""
    publisher = Publisher.connect("anywhere", server.url, timeout_seconds=0.5)
    document = wanted(name, uid="foreign").document
    assert document
    await publisher.publish(document)
    await publisher.aclose()


@pytest.mark.parametrize(
    "command", [("SET", keys.REVISION, "garbage"), ("HSET", keys.TIERS, "deep", "[" * 100_000), ("HSET", keys.TIERS, b"\xff", "{}")]
)
async def test_bad_data_in_one_region_stops_nothing(valkeys: Any, workers: Any, eventually: Eventually, command: tuple[Any, ...]):
    """What somebody else wrote is replaced or removed, and the regions go on being reconciled."""
    frankfurt, dublin, objects = valkeys(), valkeys(), Objects(wanted())
    await workers(frankfurt)
    await workers(dublin)
    async with operator(objects, frankfurt=frankfurt, dublin=dublin) as reconciler, frankfurt.client() as client:
        await eventually(objects.is_ready)

        await client.execute_command(*command)
        await reconciler.resync()
        reconciler.put(wanted(limit=20, generation=2))

        await eventually(lambda: objects.is_ready(generation=2), 5)


async def test_an_unexpected_error_ends_nothing(valkey: Any, eventually: Eventually, monkeypatch: pytest.MonkeyPatch):
    """It is logged, and the tier is looked at again."""
    objects = Objects(wanted())
    original, failures = Publisher.read, [ZeroDivisionError(), ZeroDivisionError()]

    async def read(self: Publisher, name: str | None) -> Any:
        if failures:
            raise failures.pop()
        return await original(self, name)

    monkeypatch.setattr(Publisher, "read", read)
    async with operator(objects, frankfurt=valkey):
        await eventually(holds(valkey, free=10), 5)


async def test_a_region_that_refuses_to_be_written_to_is_not_called_unreachable(
    valkey: Any, valkeys: Any, workers: Any, eventually: Eventually
):
    full, objects = valkeys(), Objects(wanted())
    await workers(full)
    async with operator(objects, frankfurt=full) as reconciler, full.client() as client:
        await eventually(objects.is_ready)
        await client.config_set("maxmemory", "1")

        reconciler.put(wanted(limit=20, generation=2))

        await eventually(lambda: objects.statuses["free"]["conditions"][2]["reason"] == "WriteRefused", 3)
        assert objects.states() == {"frankfurt": "Progressing"}
        await client.config_set("maxmemory", "0")
        await eventually(lambda: objects.is_ready(generation=2), 20)


async def test_the_last_good_spec_is_found_in_another_region_after_a_start(valkeys: Any, eventually: Eventually):
    """The newest spec is refused, this operator saw none that was not, and one region lost its data."""
    frankfurt, dublin = valkeys(), valkeys()
    async with operator(Objects(wanted()), frankfurt=frankfurt, dublin=dublin):
        await eventually(holds(frankfurt, free=10))
        await eventually(holds(dublin, free=10))
    frankfurt.flush()
    refused, objects = desired_tier("free", "a", 2, {"windows": []}, status={}), Objects()
    objects.tiers["free"] = refused

    async with operator(objects, frankfurt=frankfurt, dublin=dublin):
        await eventually(holds(frankfurt, free=10), 5)
        await eventually(lambda: set(objects.states().values()) == {"Progressing"})
