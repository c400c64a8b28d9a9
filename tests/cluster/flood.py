"""Fills the dedicated cache lane of a tier several times over; run in a pod of the API, which has what opens it, by `test_lanes.py`."""

import os
import sys
from pathlib import Path

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tidegate.contract import keys
from tidegate.contract.codec import decode_tier
from tidegate.contract.lanes import lane_password, lane_url
from tidegate.settings import read_secret

tier, mebibytes = sys.argv[1], int(sys.argv[2])
with Redis.from_url(os.environ["TIDEGATE_REDIS_URL"], socket_timeout=5) as regional:
    document = decode_tier(tier, regional.hgetall(keys.TIERS)[tier.encode()])
secret = read_secret(Path(os.environ["TIDEGATE_LANE_KEY_FILE"]))
url = lane_url(document.lane, region=os.environ["TIDEGATE_REGION"], password=lane_password(secret, document))
# Nodes hear of a new lane, and of who may reach it, a moment after it is ready: ten seconds at most are waited for it.
with Redis.from_url(url, socket_timeout=5, retry=Retry(ConstantBackoff(0.1), 100)) as lane:
    for number in range(mebibytes * 16):
        lane.hset(f"tg:1:cache:flood-{number}", "entry", os.urandom(65536))
    print(sum(lane.hlen(f"tg:1:cache:flood-{number}") for number in range(mebibytes * 16)))
