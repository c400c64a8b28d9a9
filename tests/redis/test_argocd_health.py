"""How Argo CD judges what the operator writes: the script of k8s/argocd/health.yaml, run by Valkey's Lua, which is 5.1 as Argo CD's is."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.asyncio import Redis

from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.observation import Observation, RegionView, Stored
from tidegate_operator.status import build_status

HEALTH = Path(__file__).parents[2] / "k8s/argocd/health.yaml"
NAME = "resource.customizations.health.tidegate.dev_RateLimitTier"
SPEC = {"windows": [{"name": "minute", "limit": 10, "period": "1m"}]}
TIER, BAD = (desired_tier("free", "uid", 7, spec) for spec in (SPEC, {"windows": []}))


def holding(applied: int) -> Observation:
    assert TIER.document
    return Observation("frankfurt", RegionView(5, 2, applied), Stored("free", "uid", 7, TIER.document))


@pytest.mark.parametrize(
    ("tier", "seen", "health", "said"),
    [
        (TIER, holding(applied=2), "Healthy", "Every ready worker of every region enforces this generation"),
        (TIER, holding(applied=1), "Progressing", "Not yet enforced in frankfurt"),
        (TIER, Observation("frankfurt", problem="its Redis does not answer"), "Degraded", "frankfurt: its Redis does not answer"),
        (BAD, holding(applied=2), "Degraded", "Generation 7 is refused"),
        (replace(TIER, held_by=("example.com/theirs",)), holding(applied=2), "Progressing", "It was deleted"),
    ],
)
async def test_a_tier_is_as_healthy_as_the_operator_says(
    redis: Redis, tier: DesiredTier, seen: Observation, health: str, said: str
) -> None:
    status = build_status(tier, [seen], {}, now="2026-01-01T00:00:00Z")

    found = await judged(redis, {"metadata": {"generation": 7}, "status": status})

    assert found["status"] == health
    assert found["message"].startswith(said)


@pytest.mark.parametrize(
    "status", [None, {}, {"observedGeneration": 6, "conditions": [{"type": "Ready", "status": "True", "message": ""}]}]
)
async def test_what_was_said_of_an_older_generation_does_not_count(redis: Redis, status: dict[str, Any] | None) -> None:
    found = await judged(redis, {"metadata": {"generation": 7}} | ({} if status is None else {"status": status}))

    assert found == {"status": "Progressing", "message": "The operator has not seen this generation"}


async def judged(redis: Redis, tier: dict[str, Any]) -> dict[str, str]:
    script = yaml.safe_load(HEALTH.read_text())["data"][NAME]
    lua = f"local obj = cjson.decode(ARGV[1])\nlocal function judge()\n{script}\nend\nreturn cjson.encode(judge())"
    found: dict[str, str] = json.loads(await redis.eval(lua, 0, json.dumps(tier)))
    return found
