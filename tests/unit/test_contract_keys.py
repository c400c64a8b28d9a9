"""The Redis keys, literally: operator and API must agree over releases."""

from tidegate.contract import keys


def test_the_keys_of_a_region_are_these() -> None:
    assert (keys.TIERS, keys.REVISION, keys.TIERS_CHANNEL) == ("tg:1:{tiers}", "tg:1:{tiers}:revision", "tg:1:tiers")
    assert (keys.WORKERS, keys.WORKERS_CHANNEL) == ("tg:1:{tiers}:workers", "tg:1:workers")


def test_a_usage_vector_lies_in_the_slot_of_its_shard() -> None:
    assert keys.usage("tid") == "tg:1:usage:{0}:tid"
    assert keys.usage("tid", shard=3) == "tg:1:usage:{3}:tid"
