"""A worker's tiers follow its region's Redis within a second, and survive its absence, against a real Valkey."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tidegate.contract import keys
from tidegate.contract.codec import Heartbeat, TierDocument, decode_heartbeat, encode_heartbeat, encode_tier
from tidegate.contract.tier import Tier
from tidegate.tiers import last_good as last_good_module
from tidegate.tiers import source as source_module
from tidegate.tiers.errors import TiersUnavailableError
from tidegate.tiers.regional import Published, RegionalTiers
from tidegate.tiers.snapshot import Documents
from tidegate.tiers.source import TierSource

Make = Callable[..., Awaitable[TierSource]]
Eventually = Callable[..., Awaitable[object]]


def document(name: str, limit: int) -> str:
    tier = Tier.from_spec(name, {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]})
    return encode_tier(TierDocument(tier, uid=f"uid-{name}", generation=1))


async def publish(redis: Redis, revision: int, *, tell: bool = True, **texts: str) -> None:
    """As the operator does: the documents, the revision and the message in one step."""
    async with redis.pipeline(transaction=True) as pipeline:
        pipeline.delete(keys.TIERS)
        if texts:
            pipeline.hset(keys.TIERS, mapping=texts)
        pipeline.set(keys.REVISION, revision)
        if tell:
            pipeline.publish(keys.TIERS_CHANNEL, revision)
        await pipeline.execute()


def limit(source: TierSource, name: str) -> int:
    return source.tier(name).windows[0].limit


async def heartbeats(redis: Redis) -> dict[str, Heartbeat]:
    return {name.decode(): decode_heartbeat(text) for name, text in (await redis.hgetall(keys.WORKERS)).items()}


@pytest.fixture
async def make(valkey: Any) -> AsyncIterator[Make]:
    """Starts sources, each on a client of its own, and stops them at the end."""
    opened: list[tuple[TierSource, Redis]] = []

    async def start(worker: str = "worker-1", *, server: Any = None, last_good: Path | None = None) -> TierSource:
        client = (server or valkey).client(timeout=0.25)
        source = TierSource(client, worker_id=worker, default_tier="free", last_good=last_good)
        opened.append((source, client))
        await source.start()
        return source

    yield start
    for source, client in opened:
        await source.stop()
        await client.aclose()


@pytest.fixture
def last_good(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tiers.json"


async def test_a_started_source_has_the_tiers(redis: Redis, make: Make) -> None:
    await publish(redis, 1, free=document("free", 10), pro=document("pro", 100))

    source = await make()

    assert source.snapshot.revision == 1
    assert {name: limit(source, name) for name in source.snapshot.tiers} == {"free": 10, "pro": 100}
    assert source.connected


async def test_a_published_change_is_enforced_before_the_next_poll(
    redis: Redis, make: Make, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tier edit is enforced within a second, by its message; polls are put off so that they cannot help."""
    monkeypatch.setattr(source_module, "HEARTBEAT_SECONDS", 30.0)
    await publish(redis, 1, free=document("free", 10))
    source = await make()

    await publish(redis, 2, free=document("free", 20))

    await eventually(lambda: source.snapshot.revision == 2, 1.0)
    assert limit(source, "free") == 20
    await eventually(lambda: reported(redis, 2), 1.0)


async def reported(redis: Redis, revision: int, worker: str = "worker-1") -> bool:
    beats = await heartbeats(redis)
    return worker in beats and beats[worker].revision == revision


async def test_a_change_whose_message_was_lost_is_found_by_the_poll(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 1, free=document("free", 10))
    source = await make()

    await publish(redis, 2, tell=False, free=document("free", 20))

    await eventually(lambda: source.snapshot.revision == 2, 1.5)


async def test_a_snapshot_that_was_taken_never_changes(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 1, free=document("free", 10))
    source = await make()
    taken = source.snapshot

    await publish(redis, 2, pro=document("pro", 100), free=document("free", 20))
    await eventually(lambda: source.snapshot.revision == 2)

    assert {name: tier.windows[0].limit for name, tier in taken.tiers.items()} == {"free": 10}
    with pytest.raises(TypeError):
        taken.tiers["free"] = taken.tiers["free"]  # type: ignore[index]


async def test_an_unknown_tier_gets_the_default_one_and_one_line_in_the_log(redis: Redis, make: Make) -> None:
    """Never unlimited."""
    await publish(redis, 1, free=document("free", 10))
    source = await make()

    with capture_logs() as logs:
        tiers = [source.tier(name).name for name in ("gone", "gone", "free")]

    assert tiers == ["free", "free", "free"]
    assert [entry["tier"] for entry in logs if entry["event"].startswith("unknown tier")] == ["gone"]
    assert source.unknown_tiers == 2


async def test_without_the_default_tier_an_unknown_one_is_an_error(redis: Redis, make: Make) -> None:
    await publish(redis, 1, pro=document("pro", 100))
    source = await make()

    assert limit(source, "pro") == 100
    with pytest.raises(TiersUnavailableError):
        source.tier("gone")


async def test_a_deleted_tier_falls_back_to_the_default_one(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 1, free=document("free", 10), pro=document("pro", 100))
    source = await make()

    await publish(redis, 2, free=document("free", 10))
    await eventually(lambda: source.snapshot.revision == 2)

    assert source.tier("pro").name == "free"


async def test_a_heartbeat_says_what_is_enforced_and_goes_at_stop(redis: Redis, make: Make) -> None:
    await publish(redis, 1_800_000_000_123_456, free=document("free", 10))
    source = await make()

    beat = (await heartbeats(redis))["worker-1"]
    await source.stop()

    seconds, microseconds = await redis.time()
    assert beat.revision == 1_800_000_000_123_456
    assert beat.ready
    assert 0 <= seconds * 1000 + microseconds // 1000 - beat.at_milliseconds < 5000
    assert await heartbeats(redis) == {}


async def test_a_heartbeat_is_written_as_the_contract_has_it_and_says_whether_redis_decides(redis: Redis, valkey: Any) -> None:
    await publish(redis, 1, free=document("free", 10))
    async with valkey.client(timeout=0.25) as client:
        source = TierSource(client, worker_id="w", default_tier="free", last_good=None, decides=lambda: False)
        await source.start()
        text = await redis.hget(keys.WORKERS, "w")
        await source.stop()

    assert decode_heartbeat(text).deciding is False
    assert encode_heartbeat(decode_heartbeat(text)) == text.decode()


async def test_a_worker_without_tiers_reports_that_it_is_not_ready(redis: Redis, make: Make) -> None:
    await make()

    beat = (await heartbeats(redis))["worker-1"]

    assert (beat.revision, beat.ready) == (0, False)


async def test_the_heartbeat_goes_on(redis: Redis, make: Make, eventually: Eventually) -> None:
    await make()
    first = (await heartbeats(redis))["worker-1"].at_milliseconds

    async def later() -> bool:
        return (await heartbeats(redis))["worker-1"].at_milliseconds > first

    await eventually(later, 2.0)


async def test_workers_that_fell_silent_are_dropped_and_others_kept(redis: Redis, make: Make) -> None:
    seconds, _ = await redis.time()
    beats = {"old": seconds - 11, "recent": seconds - 5, "of-a-faster-clock": seconds + 11}
    texts = {name: json.dumps({"at": at * 1000, "ready": True, "revision": 1}, separators=(",", ":")) for name, at in beats.items()}
    await redis.hset(keys.WORKERS, mapping=texts | {"odd": "{}"})

    await make()

    assert set(await heartbeats(redis)) == {"recent", "worker-1"}


async def test_the_roster_is_told_of_each_change_and_only_of_changes(redis: Redis, make: Make, eventually: Eventually) -> None:
    """The operator waits for these messages to say that a generation is active."""
    await publish(redis, 1, free=document("free", 10))
    async with redis.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe(keys.WORKERS_CHANNEL)
        await channel.get_message(timeout=1)
        source = await make()
        await publish(redis, 2, free=document("free", 20))
        await eventually(lambda: reported(redis, 2))
        beat = (await heartbeats(redis))["worker-1"].at_milliseconds
        await eventually(lambda: beaten(redis, beat), 2.0)
        await source.stop()
        messages = [await channel.get_message(timeout=0.2) for _ in range(5)]

    # Revision 0 at first contact, 1, 2, and the farewell; the beat that changed nothing was silent.
    assert [message and message["data"] for message in messages] == [b"worker-1"] * 4 + [None]


async def beaten(redis: Redis, before: int) -> bool:
    return (await heartbeats(redis))["worker-1"].at_milliseconds > before


async def test_one_bad_document_blocks_no_other_and_keeps_its_last_good_tier(
    redis: Redis, make: Make, eventually: Eventually, last_good: Path
) -> None:
    """The worker does not claim to enforce the revision either: `kubectl get rlt` must not lie."""
    await publish(redis, 1, free=document("free", 10), pro=document("pro", 100))
    source = await make(last_good=last_good)
    bad = {"free": '{"uid":"u","generation":2,"spec":{}}', "new": "not json", "deep": "[" * 100_000, "Bad Name": document("free", 1)}

    await publish(redis, 2, pro=document("pro", 200), **bad)
    await eventually(lambda: limit(source, "pro") == 200)

    assert limit(source, "free") == 10
    assert sorted(source.snapshot.tiers) == ["free", "pro"]
    assert source.snapshot.revision == 1
    await publish(redis, 3, free=document("free", 30))
    await eventually(lambda: source.snapshot.revision == 3)


async def test_whatever_goes_wrong_the_source_goes_on_following(redis: Redis, make: Make, eventually: Eventually, monkeypatch) -> None:
    """An error that nobody thought of costs one look, not every change until the next restart."""
    await publish(redis, 1, pro=document("pro", 100))
    source = await make()
    monkeypatch.setattr(Documents, "follow", lambda *_: 1 / 0)
    with capture_logs() as logs:
        await publish(redis, 2, pro=document("pro", 200))
        await eventually(lambda: [entry for entry in logs if entry["log_level"] == "error"])
    monkeypatch.undo()

    await publish(redis, 3, pro=document("pro", 300))

    await eventually(lambda: limit(source, "pro") == 300)


async def test_an_edit_leaves_every_other_tier_the_same_object(redis: Redis, make: Make, eventually: Eventually) -> None:
    """What is known of an unchanged tier (policies, refusals) stays good, and two hundred tiers cost an edit no more than one."""
    await publish(redis, 1, free=document("free", 10), pro=document("pro", 100))
    source = await make()
    before = source.snapshot.tiers["free"]

    await publish(redis, 2, free=document("free", 10), pro=document("pro", 200))
    await eventually(lambda: limit(source, "pro") == 200)

    assert source.snapshot.tiers["free"] is before


async def test_a_swap_logs_what_changed_and_few_names_of_many(redis: Redis, make: Make, eventually: Eventually) -> None:
    """A line that grows with the number of tiers would be written by every worker at every edit."""
    many = {f"tier-{number:02}": document(f"tier-{number:02}", 10) for number in range(50)}
    await publish(redis, 1, **many)
    with capture_logs() as logs:
        source = await make()
        del many["tier-07"]
        await publish(redis, 2, **many | {"tier-03": document("tier-03", 20), "new": document("new", 1)})
        await eventually(lambda: source.snapshot.revision == 2)

    first, second = (entry for entry in logs if entry["event"] == "tiers swapped")
    assert (first["tiers"], first["changed"], len(first["names"])) == (50, 50, source_module.LOGGED_CHANGES)
    assert (second["tiers"], second["changed"], second["names"]) == (50, 3, ["new", "tier-03", "tier-07"])


async def test_a_document_that_stays_bad_stays_unread(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 1, free=document("free", 10))
    source = await make()
    for revision, limit_ in ((2, 100), (3, 200)):
        await publish(redis, revision, free="not json", pro=document("pro", limit_))
        await eventually(lambda limit_=limit_: limit(source, "pro") == limit_)

    assert source.snapshot.revision == 1


async def test_a_bad_document_is_not_loaded_again_and_again(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 1, free="not json")
    with capture_logs() as logs:
        await make()
        beat = (await heartbeats(redis))["worker-1"].at_milliseconds
        await eventually(lambda: beaten(redis, beat), 2.0)

    assert len([entry for entry in logs if entry["event"] == "tier document not read"]) == 1


async def test_a_flushed_region_keeps_the_last_tiers_until_it_is_filled_again(redis: Redis, make: Make, eventually: Eventually) -> None:
    await publish(redis, 5, free=document("free", 10))
    source = await make()
    await redis.flushall()
    await eventually(lambda: reported(redis, 5), 2.0)

    kept = limit(source, "free")
    await publish(redis, 6, free=document("free", 20))

    assert kept == 10
    await eventually(lambda: limit(source, "free") == 20)


async def test_a_flushed_region_makes_no_worker_believe_that_it_is_alone(redis: Redis, make: Make, eventually: Eventually) -> None:
    """RL-13: each would take the whole limit for its share."""
    sources = [await make(f"worker-{number}") for number in range(3)]
    await eventually(lambda: [source.workers for source in sources] == [3, 3, 3])

    await redis.flushall()
    smallest = 3
    while len(await heartbeats(redis)) < 3:
        smallest = min(smallest, *(source.workers for source in sources))
        await asyncio.sleep(0.001)

    assert smallest == 3


async def test_a_start_without_redis_has_the_last_good_tiers(
    make: Make, valkeys: Callable[..., Any], eventually: Eventually, last_good: Path
) -> None:
    """A worker restarted while Redis is down still knows its tiers."""
    server = valkeys()
    async with server.client() as client:
        await publish(client, 7, free=document("free", 10), pro=document("pro", 100))
    first = await make(server=server, last_good=last_good)
    await eventually(last_good.exists)
    await first.stop()
    server.kill()

    second = await make("worker-2", server=server, last_good=last_good)

    assert second.snapshot == first.snapshot
    assert not second.connected
    assert sorted(path.name for path in last_good.parent.iterdir()) == ["tiers.json"]


async def test_tiers_that_were_read_right_before_redis_was_lost_are_kept_too(
    make: Make, valkeys: Callable[..., Any], eventually: Eventually, last_good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in force, so a restart while Redis is away must know them."""
    server, read = valkeys(), RegionalTiers.read
    async with server.client() as client:
        await publish(client, 7, free=document("free", 10))

    async def read_last(self: RegionalTiers) -> Published | None:
        published = await read(self)
        server.kill()
        return published

    monkeypatch.setattr(RegionalTiers, "read", read_last)
    first = await make(server=server, last_good=last_good)
    await eventually(last_good.exists)
    await first.stop()

    second = await make("worker-2", server=server, last_good=last_good)

    assert second.snapshot == first.snapshot
    assert second.snapshot.revision == 7


async def test_tiers_that_the_disk_did_not_take_are_tried_again_and_the_trouble_is_logged_once(
    redis: Redis, make: Make, eventually: Eventually, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(last_good_module, "AGAIN_SECONDS", 0.0)
    tries: list[Path] = []
    save = last_good_module.save
    monkeypatch.setattr(last_good_module, "save", lambda path, documents: (tries.append(path), save(path, documents)))
    obstacle = tmp_path / "state"
    obstacle.write_text("")
    await publish(redis, 1, free=document("free", 10))
    with capture_logs() as logs:
        await make(last_good=obstacle / "tiers.json")
        await eventually(lambda: len(tries) >= 3)

        obstacle.unlink()
        await eventually((obstacle / "tiers.json").exists)
        await eventually(lambda: "last good tiers saved again" in [entry["event"] for entry in logs])

    assert [entry["event"] for entry in logs].count("last good tiers not saved, trying again") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"revision": 1}', '{"revision": "x", "tiers": {}}', '{"revision": 1, "tiers": [1]}'])
async def test_a_spoiled_last_good_file_is_not_an_obstacle(redis: Redis, make: Make, last_good: Path, content: str) -> None:
    last_good.parent.mkdir()
    last_good.write_text(content)
    await publish(redis, 1, free=document("free", 10))

    source = await make(last_good=last_good)

    assert limit(source, "free") == 10


async def test_a_directory_that_cannot_be_written_is_not_an_obstacle(redis: Redis, make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await publish(redis, 1, free=document("free", 10))

    source = await make(last_good=tmp_path / "file" / "tiers.json")

    assert limit(source, "free") == 10


async def test_a_killed_redis_that_comes_back_is_followed_again(make: Make, valkeys: Callable[..., Any], eventually: Eventually) -> None:
    server = valkeys()
    async with server.client() as client:
        await publish(client, 1, free=document("free", 10))
    source = await make(server=server)
    server.kill()
    await eventually(lambda: not source.connected)
    kept = limit(source, "free")

    server.start()
    async with server.client() as client:
        await publish(client, 2, free=document("free", 20))

        await eventually(lambda: limit(source, "free") == 20)
        await eventually(lambda: reported(client, 2))
    assert kept == 10
    assert source.connected


async def test_a_frozen_redis_is_noticed_and_followed_again(make: Make, valkeys: Callable[..., Any], eventually: Eventually) -> None:
    server = valkeys()
    async with server.client() as client:
        await publish(client, 1, free=document("free", 10))
    source = await make(server=server)
    server.freeze()
    await eventually(lambda: not source.connected)

    server.thaw()
    await eventually(lambda: source.connected)

    async with server.client() as client:
        await publish(client, 2, free=document("free", 20))
        await eventually(lambda: limit(source, "free") == 20, 1.0)


async def test_a_source_can_be_stopped_while_redis_is_away(make: Make, valkeys: Callable[..., Any]) -> None:
    server = valkeys()
    source = await make(server=server)
    server.kill()

    async with asyncio.timeout(3):
        await source.stop()

    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"tiers"})


async def test_an_outage_is_logged_once(make: Make, valkeys: Callable[..., Any], eventually: Eventually) -> None:
    server = valkeys()
    with capture_logs() as logs:
        source = await make(server=server)
        server.kill()
        await eventually(lambda: not source.connected)
        server.start()
        await eventually(lambda: source.connected)

    assert [entry["event"] for entry in logs] == ["region not reached, the last tiers stay", "region reached again"]
