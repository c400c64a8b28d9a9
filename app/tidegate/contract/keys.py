"""Every regional Redis key of the platform; called by the operator's publisher and by the API's tier, limit and heartbeat adapters.

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
USAGES = "tg:1:usage:*"
"""Pattern of every key that `usage` makes."""


def usage(identity: str, *, shard: int = 0) -> str:
    """Key of one identity's usage vector; `identity` is the pseudonymous tid, never a name."""
    return f"tg:1:usage:{{{shard}}}:{identity}"
