"""Every regional Redis key of the platform; called by the operator's publisher and by the API's tier, limit, heartbeat and lane adapters.

The `1` is the layout's version. Braces hold the part that must share a slot on Redis Cluster: what one script touches lies together.
"""

TIERS = "tg:1:{tiers}"
"""Hash: tier name -> document (`codec.py`)."""
REVISION = "tg:1:{tiers}:revision"
"""String: microseconds, grows with every change of the tiers, over a flush as well."""
TIERS_CHANNEL = "tg:1:tiers"
"""Channel: the new revision after each change."""
WORKERS = "tg:1:{tiers}:workers"
"""Hash: worker id -> heartbeat (`codec.py`)."""
WORKERS_CHANNEL = "tg:1:workers"
"""Channel: a worker id, each time that worker begins to enforce another revision."""
STORE = "tg:1:{tiers}:store"
"""String: mark of the consistent store that the region has served with."""
USAGES = "tg:1:usage:*"
"""Pattern of every key that `usage` makes."""

REPLAYS_SUFFIX = ".replays"
"""Ends the names of `replays_of`; no tid has a dot in it."""


def sharded(tid: str, shard: int) -> str:
    """The name of an identity where usage is spread over shards: with that of its own in front."""
    return f"{shard}:{tid}"


def shard_of(identity: str) -> int:
    """The shard that a name begins with; 0 of a plain tid."""
    return int(identity.rpartition(":")[0] or 0)


def replays_of(identity: str) -> str:
    """The name under which an identity's repetitions of mutations are counted, apart from its usage."""
    return identity + REPLAYS_SUFFIX


def usage(identity: str) -> str:
    """Key of one identity's usage vector; `identity` is the pseudonymous tid, `sharded` or plain, never a name of a customer."""
    if ":" not in identity:
        return f"tg:1:usage:{{0}}:{identity}"
    shard, _, tid = identity.rpartition(":")
    return f"tg:1:usage:{{{shard}}}:{tid}"


def cached(tenant: str, path: str) -> str:
    """Key of what a cache lane keeps of one path for one tenant; both are pseudonyms that mean something in that lane alone."""
    return f"tg:1:cache:{tenant}:{path}"


def cached_of(tenant: str) -> str:
    """Pattern of every key that `cached` makes for a tenant."""
    return cached(tenant, "*")
