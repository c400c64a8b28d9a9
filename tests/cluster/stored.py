"""Prints the revision and the names of the tiers in a region's Redis; run in a pod of the API by `release.py`."""

import os

from redis import Redis

from tidegate.contract import keys

with Redis.from_url(os.environ["TIDEGATE_REDIS_URL"], socket_timeout=5) as regional:
    names = sorted(name.decode() for name in regional.hgetall(keys.TIERS))
    print(int(regional.get(keys.REVISION)), *names)
