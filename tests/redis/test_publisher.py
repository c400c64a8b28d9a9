"""The publisher against a real Valkey: what one region holds after each step."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from tidegate.contract import keys
from tidegate.contract.codec import Heartbeat, TierDocument, encode_heartbeat, encode_tier
from tidegate.contract.tier import Tier
from tidegate_operator.errors import RegionUnreachableError
from tidegate_operator.publisher import Publisher


def document(uid: str = "a", generation: int = 1, limit: int = 10, name: str = "free") -> TierDocument:
    return TierDocument(Tier.from_spec(name, {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}), uid, generation)


@pytest.fixture
async def publisher(valkey: Any) -> AsyncIterator[Publisher]:
    publisher = Publisher.connect("frankfurt", valkey.url, timeout_seconds=1.0)
    yield publisher
    await publisher.aclose()


async def test_what_was_published_is_read_back(publisher: Publisher):
    filled = await publisher.fill([document(), document("b", name="pro")])
    published = await publisher.publish(document(generation=2))

    assert (filled, published) == ("filled", "published")
    assert (await publisher.read("free")).document == document(generation=2)
    assert (await publisher.read("pro")).document == document("b", name="pro")


async def test_a_region_without_a_revision_gets_all_tiers_or_none(publisher: Publisher, redis: Redis):
    """A single one would be the first that workers see of it, and the last of all others."""
    await redis.hset(keys.TIERS, "old", "{}")
    before = await redis.hgetall(keys.TIERS)

    outcomes = [await publisher.publish(document()), await publisher.retire("old", "")]

    assert outcomes == ["empty", "empty"]
    assert await redis.hgetall(keys.TIERS) == before
    assert (await publisher.view()).revision is None


async def test_filling_leaves_nothing_of_what_lay_there_without_a_revision(publisher: Publisher, redis: Redis):
    """Workers would enforce a tier that was deleted while nobody could retire it."""
    await publisher.fill([document(), document("b", name="pro")])
    await redis.delete(keys.REVISION)

    await publisher.fill([document("c", name="team")])

    assert await publisher.uids() == {"team": "c"}


async def test_a_region_that_lost_its_tiers_but_not_its_revision_gets_all_tiers_or_none(publisher: Publisher, redis: Redis):
    """As a server does that evicts: the tiers are its largest key. A single one would be the last that workers see of all others."""
    await publisher.fill([document(), document("b", name="pro")])
    before = (await publisher.view()).revision
    await redis.delete(keys.TIERS)

    assert (await publisher.read("free")).is_empty
    assert await publisher.publish(document()) == "empty"
    assert await publisher.fill([document(), document("b", name="pro")]) == "filled"

    assert await publisher.uids() == {"free": "a", "pro": "b"}
    assert (await publisher.view()).revision == publisher.last_revision > before


async def test_a_tier_that_is_not_there_yet_does_not_make_its_region_an_empty_one(publisher: Publisher):
    await publisher.fill([document()])

    assert not (await publisher.read("pro")).is_empty
    assert await publisher.publish(document("b", name="pro")) == "published"


async def test_a_region_with_a_revision_and_a_tier_is_not_filled(publisher: Publisher):
    """Another operator was first, and knows better perhaps."""
    await publisher.fill([document(generation=2)])
    before = await publisher.view()

    outcome = await publisher.fill([document(generation=1), document("b", name="pro")])

    assert outcome == "kept"
    assert await publisher.view() == before
    assert await publisher.uids() == {"free": "a"}


async def test_five_thousand_tiers_are_one_call(publisher: Publisher):
    documents = [document(str(number), name=f"customer-{number}") for number in range(5_000)]

    assert await publisher.fill(documents) == "filled"
    assert await publisher.uids() == {document.tier.name: document.uid for document in documents}


async def test_a_server_that_knows_no_script_is_sent_the_tiers_once(publisher: Publisher, redis: Redis):
    """As one that came back: each of them takes its time on a slow link."""
    documents = [document(str(number), name=f"customer-{number}") for number in range(1_000)]
    await redis.script_flush()
    before = (await redis.info("stats"))["total_net_input_bytes"]

    await publisher.fill(documents)

    sent = (await redis.info("stats"))["total_net_input_bytes"] - before
    assert sent < 1.3 * sum(len(encode_tier(each)) for each in documents)


async def test_a_fill_without_tiers_forgets_none(publisher: Publisher):
    await publisher.fill([document()])

    assert await publisher.fill([]) == "kept"
    assert await publisher.uids() == {"free": "a"}


async def test_a_newer_generation_wins(publisher: Publisher):
    await publisher.fill([document(generation=1, limit=10)])

    await publisher.publish(document(generation=2, limit=20))

    assert (await publisher.read("free")).document == document(generation=2, limit=20)


async def test_an_older_generation_of_the_same_object_is_refused(publisher: Publisher):
    """A stale operator cannot roll a tier back."""
    await publisher.fill([document(generation=2)])
    before = await publisher.view()

    outcome = await publisher.publish(document(generation=1))

    assert outcome == "refused"
    assert (await publisher.read("free")).document == document(generation=2)
    assert await publisher.view() == before


async def test_an_operator_whose_lease_is_over_writes_nothing(publisher: Publisher):
    """Also where no generation would stop it: it knows neither that a tier was deleted nor that it was made anew."""
    await publisher.fill([document(uid="b")])
    before = await publisher.view()

    def end() -> None:
        raise SystemExit

    publisher.before_write = end
    with pytest.raises(SystemExit):
        await publisher.publish(document(uid="a", generation=9))
    with pytest.raises(SystemExit):
        await publisher.retire("free", "b")
    with pytest.raises(SystemExit):
        await publisher.fill([document()])

    assert await publisher.view() == before


async def test_an_object_made_anew_is_accepted_whatever_its_generation(publisher: Publisher):
    await publisher.fill([document(uid="a", generation=9)])

    outcome = await publisher.publish(document(uid="b", generation=1))

    assert outcome == "published"
    assert (await publisher.read("free")).document == document(uid="b", generation=1)


async def test_publishing_twice_equals_once(publisher: Publisher):
    await publisher.fill([document()])
    before = await publisher.view()

    outcome = await publisher.publish(document())

    assert outcome == "equal"
    assert await publisher.view() == before


async def test_retiring_the_tier_of_another_uid_changes_nothing(publisher: Publisher):
    await publisher.fill([document(uid="a")])
    before = await publisher.view()

    outcome = await publisher.retire("free", "b")

    assert outcome == "kept"
    assert (await publisher.read("free")).document == document(uid="a")
    assert await publisher.view() == before


async def test_retiring_a_missing_tier_changes_nothing(publisher: Publisher):
    await publisher.fill([document("b", name="pro")])
    before = await publisher.view()

    outcome = await publisher.retire("free", "a")

    assert outcome == "kept"
    assert await publisher.view() == before


async def test_a_retired_tier_is_gone_and_the_revision_grows(publisher: Publisher):
    await publisher.fill([document()])
    before = (await publisher.view()).revision

    outcome = await publisher.retire("free", "a")

    assert outcome == "retired"
    assert await publisher.uids() == {}
    assert (await publisher.view()).revision > before


async def test_each_change_announces_its_revision(publisher: Publisher, redis: Redis):
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(keys.TIERS_CHANNEL)
        await pubsub.get_message(timeout=1)

        for change in (publisher.fill([document()]), publisher.publish(document(generation=2)), publisher.retire("free", "a")):
            await change

            message = await pubsub.get_message(timeout=1)
            assert int(message["data"]) == (await publisher.view()).revision == publisher.last_revision


async def test_the_revision_grows_over_a_flush(publisher: Publisher, redis: Redis):
    await publisher.fill([document()])
    before = (await publisher.view()).revision
    await redis.flushall()

    await publisher.fill([document()])

    assert (await publisher.view()).revision > before


async def test_the_revision_grows_though_the_clock_stepped_back(publisher: Publisher, redis: Redis):
    await publisher.fill([document()])
    await redis.set(keys.REVISION, "9000000000000000")

    await publisher.publish(document(generation=2))
    await redis.delete(keys.TIERS)
    await publisher.fill([document()])

    assert (await publisher.view()).revision == 9_000_000_000_000_002


async def test_without_a_revision_a_stored_tier_counts_as_not_published(publisher: Publisher, redis: Redis):
    await publisher.fill([document()])
    await redis.delete(keys.REVISION)

    assert (await publisher.read("free")).document is None
    assert await publisher.fill([document()]) == "filled"


async def test_a_revision_that_is_no_number_is_replaced(publisher: Publisher, redis: Redis):
    """Not written by us, and it must not stand in the way of what is."""
    await publisher.fill([document()])
    before = (await publisher.view()).revision

    await redis.set(keys.REVISION, "abc")

    assert await publisher.fill([document()]) == "filled"
    assert (await publisher.view()).revision > before


async def test_a_document_that_cannot_be_read_is_replaced(publisher: Publisher, redis: Redis):
    await publisher.fill([document()])
    await redis.hset(keys.TIERS, "free", "{half a docum")

    assert (await publisher.read("free")).document is None
    assert await publisher.publish(document()) == "published"


async def test_a_document_that_cannot_be_read_can_be_retired(publisher: Publisher, redis: Redis):
    """Workers hold back from a revision that they cannot read whole, so nothing unreadable may stay."""
    await publisher.fill([document()])
    await redis.hset(keys.TIERS, mapping={"free": "{half a docum", "pro": '{"uid": "b"}'})

    uids = await publisher.uids()

    assert uids == {"free": "", "pro": "b"}
    assert [await publisher.retire(name, uid) for name, uid in uids.items()] == ["retired", "retired"]


async def test_only_workers_that_reported_lately_count(publisher: Publisher, redis: Redis):
    await publisher.fill([document()])
    revision = (await publisher.view()).revision
    seconds, _ = await redis.time()
    beats = {"a": Heartbeat(revision, seconds * 1000, True), "b": Heartbeat(0, seconds * 1000, True), "c": Heartbeat(revision, 0, True)}
    await redis.hset(keys.WORKERS, mapping={name: encode_heartbeat(beat) for name, beat in beats.items()} | {"d": "garbage"})

    view = await publisher.view()

    assert (view.ready, view.applied) == (2, 1)


async def test_a_report_of_a_worker_ends_the_wait_at_once(publisher: Publisher, redis: Redis):
    async with publisher.reports() as reports, asyncio.timeout(5):
        await reports.wait(0.1)
        waiting = asyncio.create_task(reports.wait(60))
        await redis.publish(keys.WORKERS_CHANNEL, "a")

        await waiting


async def test_a_region_that_is_down_is_a_typed_error_without_its_address(valkeys: Any):
    server = valkeys()
    server.kill()
    publisher = Publisher.connect("dublin", server.url, timeout_seconds=0.5)

    with pytest.raises(RegionUnreachableError) as caught:
        await publisher.view()

    assert str(caught.value).startswith("region dublin: ")
    assert str(server.port) not in str(caught.value)
    await publisher.aclose()


async def test_a_region_that_hangs_is_given_up_after_the_timeout(valkeys: Any):
    server = valkeys()
    publisher = Publisher.connect("dublin", server.url, timeout_seconds=0.2)
    await publisher.view()
    server.freeze()

    async with asyncio.timeout(2):
        with pytest.raises(RegionUnreachableError):
            await publisher.publish(document())

    await publisher.aclose()
