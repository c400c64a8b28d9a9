"""The Redis keys, literally: operator and API must agree over releases."""

from redis.crc import key_slot

from tidegate.contract import keys


def test_the_keys_of_a_region_are_these() -> None:
    assert (keys.TIERS, keys.REVISION, keys.TIERS_CHANNEL) == ("tg:1:{tiers}", "tg:1:{tiers}:revision", "tg:1:tiers")
    assert (keys.WORKERS, keys.WORKERS_CHANNEL) == ("tg:1:{tiers}:workers", "tg:1:workers")
    assert keys.STORE == "tg:1:{tiers}:store"


def test_a_usage_vector_lies_in_the_slot_of_its_shard() -> None:
    assert keys.usage("tid") == "tg:1:usage:{0}:tid"
    assert keys.usage(keys.sharded("tid", 3)) == "tg:1:usage:{3}:tid"
    assert keys.usage(keys.replays_of(keys.sharded("tid", 3))) == "tg:1:usage:{3}:tid.replays"
    assert (keys.shard_of("tid"), keys.shard_of(keys.sharded("tid", 255))) == (0, 255)


def test_what_a_lane_keeps_of_a_path_is_one_key() -> None:
    assert keys.cached("tenant", "path") == "tg:1:cache:tenant:path"
    assert keys.cached_of("tenant") == "tg:1:cache:tenant:*"


def test_what_a_script_touches_lies_in_one_slot() -> None:
    assert len({key_slot(key.encode()) for key in (keys.TIERS, keys.REVISION, keys.WORKERS)}) == 1
    assert len({key_slot(keys.usage(keys.sharded(tid, 7)).encode()) for tid in ("a", "b")}) == 1
