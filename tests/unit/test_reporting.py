"""What is written of a tier's status, and when, while the API server is slow or fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from tidegate_operator import work_queue
from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.errors import ReportError
from tidegate_operator.lane_state import READY, LaneState, Upkeep
from tidegate_operator.observation import Observation, RegionView, Stored
from tidegate_operator.reporting import Reporting
from tidegate_operator.wanted import WantedTiers

Eventually = Callable[..., Awaitable[object]]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "FIRST_RETRY_SECONDS", 0.01)


class ApiServer:
    """Takes statuses while `answers` is set, and refuses as many as `failures` says."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.calls = 0
        self.failures = 0
        self.written: list[tuple[str, int, str]] = []

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        self.calls += 1
        await self.answers.wait()
        if self.failures:
            self.failures -= 1
            raise ReportError("no status now")
        self.written.append((tier.uid, status["observedGeneration"], status["regions"][0]["state"]))


class Lanes:
    """Makes lanes while `answers` is set; as often as `failures` says something is left to do."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.failures = 0
        self.kept: list[str] = []

    async def keep(self, tier: DesiredTier) -> Upkeep:
        await self.answers.wait()
        self.kept.append(tier.name)
        self.failures -= 1
        return Upkeep({"dublin": LaneState(READY, "It is ready")}, is_done=self.failures < 0)


def wanted_tier(name: str = "free", *, uid: str = "a", generation: int = 1) -> DesiredTier:
    return desired_tier(name, uid, generation, {"windows": [{"name": "minute", "limit": 1, "period": "1m"}]}, status={})


def seen(tier: DesiredTier, *, applied: int = 1) -> list[Observation]:
    """The region holds the tier, and one of its workers enforces it or does not yet."""
    return [Observation("dublin", RegionView(5, 1, applied), Stored(tier.name, tier.uid, tier.generation, tier.document))]


@asynccontextmanager
async def serving(api: ApiServer, wanted: WantedTiers, lanes: Lanes | None = None) -> AsyncIterator[Reporting]:
    reporting = Reporting(wanted, api, lanes)
    task = asyncio.create_task(reporting.run())
    yield reporting
    task.cancel()
    await asyncio.wait([task])


async def test_what_was_seen_while_the_api_server_was_slow_is_written_once_and_the_newest_of_it(eventually: Eventually):
    api, tier = ApiServer(), wanted_tier()
    wanted = WantedTiers()
    wanted.put(tier)
    async with serving(api, wanted) as reporting:
        api.answers.clear()
        reporting.put(tier, seen(tier, applied=0))
        await eventually(lambda: api.calls)
        for applied in (1, 0, 1):
            reporting.put(tier, seen(tier, applied=applied))
        api.answers.set()
        await eventually(lambda: api.written[-1:] == [("a", 1, "Ready")])
        await eventually(lambda: not reporting._looks)

    assert api.written == [("a", 1, "Progressing"), ("a", 1, "Ready")]
    assert api.calls == 2


async def test_a_status_that_is_right_again_before_it_could_be_written_is_not_written(eventually: Eventually):
    api, tier = ApiServer(), wanted_tier()
    wanted = WantedTiers()
    wanted.put(tier)
    async with serving(api, wanted) as reporting:
        reporting.put(tier, seen(tier))
        await eventually(lambda: not reporting._looks)
        api.answers.clear()
        for number in range(8):
            other = wanted_tier(f"tier-{number}")
            wanted.put(other)
            reporting.put(other, seen(other))
        await eventually(lambda: api.calls == 9)
        reporting.put(wanted.tiers["free"], seen(tier, applied=0))
        reporting.put(wanted.tiers["free"], seen(tier))
        api.answers.set()
        await eventually(lambda: not reporting._looks)

    assert len(api.written) == 9


async def test_a_status_that_is_refused_is_written_later(eventually: Eventually):
    api, tier = ApiServer(), wanted_tier()
    wanted = WantedTiers()
    wanted.put(tier)
    api.failures = 2
    async with serving(api, wanted) as reporting:
        reporting.put(tier, seen(tier))
        await eventually(lambda: not reporting._looks)

    assert api.written == [("a", 1, "Ready")]
    assert wanted.tiers["free"].last_status["activeGeneration"] == 1


@pytest.mark.parametrize("newer", [None, wanted_tier(generation=2), wanted_tier(uid="b")])
async def test_of_a_tier_that_is_gone_or_another_by_now_nothing_is_written(eventually: Eventually, newer: DesiredTier | None):
    """Neither a status nor a lane, which nobody would own: another look comes with what is new."""
    api, lanes, tier = ApiServer(), Lanes(), wanted_tier()
    wanted = WantedTiers()
    wanted.put(tier)
    if newer is None:
        wanted.remove("free", "a")
    else:
        wanted.put(newer)
    async with serving(api, wanted, lanes) as reporting:
        reporting.put(tier, seen(tier))
        await eventually(lambda: not reporting._looks)

    assert api.calls == 0
    assert lanes.kept == []


async def test_a_tier_that_is_held_is_reported_after_it_left_the_wanted_ones_and_its_lanes_are_left_alone(eventually: Eventually):
    api, lanes = ApiServer(), Lanes()
    async with serving(api, WantedTiers(), lanes) as reporting:
        reporting.put(replace(wanted_tier(), held_by=("example.com/theirs",)), [Observation("dublin", RegionView(5, 1, 1))])
        await eventually(lambda: not reporting._looks)

    assert api.written == [("a", 1, "Progressing")]
    assert lanes.kept == []


async def test_lanes_are_kept_until_nothing_is_left_to_do(eventually: Eventually):
    api, lanes, tier = ApiServer(), Lanes(), wanted_tier()
    wanted = WantedTiers()
    wanted.put(tier)
    lanes.failures = 2
    async with serving(api, wanted, lanes) as reporting:
        reporting.put(tier, seen(tier))
        await eventually(lambda: not reporting._looks)

    assert lanes.kept == ["free"] * 3
    assert len(api.written) == 1
