"""A tier's status says what the regions showed, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from tidegate.contract.codec import Heartbeat
from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.lane_state import LaneState
from tidegate_operator.observation import Observation, RegionView, Stored, region_view
from tidegate_operator.status import build_status, newly_superseded, summary

SPEC = {"windows": [{"name": "minute", "limit": 10, "period": "1m"}]}
FIRST, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z"


def tier(generation: int = 7, spec: object = SPEC, status: dict[str, Any] | None = None) -> DesiredTier:
    return desired_tier("free", "uid", generation, spec, status=status)


def seen(region: str, holding: DesiredTier | None, ready: int = 2, applied: int = 2, undecided: int = 0) -> Observation:
    document = holding.document if holding else None
    stored = Stored("free", document.uid, document.generation, document) if document else None
    return Observation(region, RegionView(5, ready, applied, undecided), stored)


def lost(region: str) -> Observation:
    return Observation(region, problem="its Redis does not answer")


def condition(status: dict[str, Any], kind: str) -> tuple[str, str]:
    found = next(condition for condition in status["conditions"] if condition["type"] == kind)
    return found["status"], found["reason"]


def test_a_tier_that_all_workers_enforce_is_ready():
    status = build_status(tier(), [seen("frankfurt", tier()), seen("dublin", tier(), 1, 1)], {}, now=FIRST)

    assert [condition(status, kind)[0] for kind in ("Accepted", "Programmed", "Degraded", "Ready")] == ["True", "True", "False", "True"]
    assert (status["regionsReady"], status["observedGeneration"], status["activeGeneration"]) == ("2/2", 7, 7)
    assert status["contentHash"].startswith("sha256:")
    assert status["problems"] == []
    assert status["regions"][1] == {"name": "dublin", "state": "Ready", "appliedGeneration": 7, "workers": {"ready": 1, "applied": 1}}


@pytest.mark.parametrize(("ready", "applied"), [(2, 1), (2, 0), (0, 0)])
def test_a_region_is_ready_only_when_it_has_workers_and_all_of_them_enforce_it(ready: int, applied: int):
    status = build_status(tier(), [seen("frankfurt", tier(), ready, applied)], {}, now=FIRST)

    assert status["regions"][0]["state"] == "Progressing"
    assert condition(status, "Ready") == ("False", "Progressing")


def test_a_region_that_holds_an_older_generation_is_progressing():
    status = build_status(tier(8), [seen("frankfurt", tier(7))], {}, now=FIRST)

    assert (status["regions"][0]["state"], status["regions"][0]["appliedGeneration"]) == ("Progressing", 7)
    assert condition(status, "Programmed") == ("False", "Pending")


def test_the_active_generation_stays_until_every_region_enforces_the_next():
    before = build_status(tier(7), [seen("frankfurt", tier(7)), seen("dublin", tier(7))], {}, now=FIRST)

    status = build_status(tier(8, status=before), [seen("frankfurt", tier(8)), seen("dublin", tier(8), 2, 1)], {}, now=LATER)

    assert (status["activeGeneration"], status["observedGeneration"], status["regionsReady"]) == (7, 8, "1/2")


def test_a_lost_region_shows_as_unreachable_and_the_others_go_on():
    before = build_status(tier(), [seen("frankfurt", tier()), seen("dublin", tier())], {}, now=FIRST)

    status = build_status(tier(status=before), [seen("frankfurt", tier()), lost("dublin")], {}, now=LATER)

    assert [region["state"] for region in status["regions"]] == ["Ready", "Unreachable"]
    assert status["regions"][1]["appliedGeneration"] == 7
    assert condition(status, "Degraded") == ("True", "RegionUnreachable")
    assert condition(status, "Ready") == ("False", "RegionUnreachable")


def test_a_tier_that_is_being_deleted_is_not_ready_and_says_what_holds_its_object():
    before = build_status(tier(), [seen("frankfurt", tier()), seen("dublin", tier())], {}, now=FIRST)
    held = replace(tier(status=before), held_by=("example.com/theirs", "example.com/ours"))

    status = build_status(held, [seen("frankfurt", None), lost("dublin")], {}, now=LATER)

    assert (status["activeGeneration"], status["regionsReady"]) == (0, "0/2")
    assert condition(status, "Ready") == condition(status, "Programmed") == ("False", "Deleting")
    assert [entry["message"] for entry in status["conditions"] if entry["type"] in ("Programmed", "Ready")] == [
        "Not yet retired in dublin",
        "It was deleted, and its tokens meet the default tier; its object is there for finalizers: example.com/theirs, example.com/ours",
    ]


def test_a_region_without_workers_is_degraded():
    status = build_status(tier(), [seen("frankfurt", tier(), 0, 0)], {}, now=FIRST)

    assert condition(status, "Degraded") == ("True", "NoReadyWorkers")


@pytest.mark.parametrize(
    ("troubles", "reason", "named"),
    [
        ("decides_not", "LimitsNotDecided", ["dublin: its Redis does not decide limits"]),
        (
            "decides_not idle",
            "NoReadyWorkers",
            ["dublin: its Redis does not decide limits", "oslo: no ready worker reports, so none decides"],
        ),
        (
            "idle lost",
            "RegionUnreachable",
            ["dublin: no ready worker reports", "oslo: its Redis does not answer, so its workers may not decide"],
        ),
    ],
)
def test_the_worst_trouble_is_the_reason_and_the_message_names_each_region(troubles: str, reason: str, named: list[str]):
    """Store loss is visible: which workers do not decide limits."""
    kinds = {
        "decides_not": lambda region: seen(region, tier(), undecided=1),
        "idle": lambda region: seen(region, tier(), 0, 0),
        "lost": lost,
    }
    observations = [kinds[kind](region) for kind, region in zip(troubles.split(), ("dublin", "oslo"), strict=False)]

    status = build_status(tier(), [seen("frankfurt", tier()), *observations], {}, now=FIRST)

    message = next(condition["message"] for condition in status["conditions"] if condition["type"] == "Degraded")
    assert condition(status, "Degraded") == ("True", reason)
    assert [part[: len(name)] for part, name in zip(message.split("; "), named, strict=True)] == named
    assert "frankfurt" not in message


def test_a_region_that_keeps_a_newer_generation_is_named_with_both_and_what_to_do():
    """As after a restore from a backup: no edit would be enforced, and nothing would say why; `kubectl get` shows the reason of `Ready`."""
    regions = [seen("frankfurt", tier(7)), seen("dublin", tier(9))]

    status = build_status(tier(7), regions, {}, now=FIRST)

    assert {condition(status, kind)[1] for kind in ("Programmed", "Degraded", "Ready")} == {"NewerGeneration"}
    said = "dublin: it keeps generation 9, newer than 7; delete the tier and create it again"
    assert [entry["message"] for entry in status["conditions"][2:]] == [said, said]
    # A region that is lost besides comes back by itself.
    assert condition(build_status(tier(7), [*regions, lost("oslo")], {}, now=FIRST), "Ready") == ("False", "NewerGeneration")


def test_a_newer_generation_is_news_once_for_each_that_it_is_newer_than():
    def first(before: dict[str, Any], generation: int, ready: int = 2) -> tuple[str, dict[str, Any]]:
        wanted = tier(generation, status=before)
        status = build_status(wanted, [seen("dublin", tier(9), ready, ready)], {}, now=FIRST)
        return newly_superseded(wanted, status), status

    told, status = first({}, 7)
    again, _ = first(status, 7, ready=1)
    edited, status = first(status, 8)
    enforced, _ = first(status, 9)

    assert (told[:32], edited[:32]) == ("dublin: it keeps generation 9, n", "dublin: it keeps generation 9, n")
    assert ("newer than 7" in told, "newer than 8" in edited) == (True, True)
    assert (again, enforced) == ("", "")


def test_a_refused_spec_is_not_accepted_and_the_last_good_one_stays():
    broken = replace(tier(8, {"windows": []}), document=tier(7).document)

    status = build_status(broken, [seen("frankfurt", tier(7))], {}, now=FIRST)

    assert condition(status, "Accepted") == condition(status, "Ready") == condition(status, "Programmed") == ("False", "InvalidSpec")
    assert status["problems"][0]["path"] == "spec.windows"
    assert (status["observedGeneration"], status["activeGeneration"]) == (8, 7)
    assert "generation 7 stays enforced" in status["conditions"][0]["message"]


def test_fields_that_this_version_does_not_enforce_are_named_and_are_no_error():
    asking = tier(spec=SPEC | {"admission": {"weight": 4}, "cache": {"lane": "Dedicated", "memory": "16Mi"}, "degradation": {}})

    status = build_status(asking, [seen("frankfurt", asking)], {}, now=FIRST)

    assert {problem["path"] for problem in status["problems"]} == {"spec.cache.lane"}
    assert {problem["reason"] for problem in status["problems"]} == {"NotEnforced"}
    assert condition(status, "Ready")[0] == "True"


def test_lanes_that_are_there_are_no_problem():
    shared, dedicated = (tier(spec=SPEC | {"cache": cache}) for cache in ({"lane": "Shared"}, {"lane": "Dedicated", "memory": "16Mi"}))
    dedicated = replace(dedicated, document=replace(dedicated.document, lane="redis://lane"))

    assert [build_status(wanted, [seen("frankfurt", wanted)], {}, now=FIRST)["problems"] for wanted in (shared, dedicated)] == [[], []]


def test_the_status_is_equal_when_nothing_changed():
    before = build_status(tier(), [seen("frankfurt", tier())], {}, now=FIRST)

    assert build_status(tier(status=before), [seen("frankfurt", tier())], {}, now=LATER) == before


def test_only_the_conditions_that_flip_take_a_new_transition_time():
    before = build_status(tier(), [seen("frankfurt", tier())], {}, now=FIRST)

    status = build_status(tier(status=before), [lost("frankfurt")], {}, now=LATER)

    times = {condition["type"]: condition["lastTransitionTime"] for condition in status["conditions"]}
    assert times == {"Accepted": FIRST, "Programmed": LATER, "Degraded": LATER, "Ready": LATER}


def test_the_summary_names_every_region_and_its_workers():
    status = build_status(tier(), [seen("frankfurt", tier()), seen("dublin", tier(), 1, 1)], {}, now=FIRST)

    assert summary("free", status) == "tier free: enforced in frankfurt (2/2 workers), dublin (1/1 workers)"


def test_ready_workers_that_do_not_decide_are_counted():
    beats = [
        Heartbeat(5, 10_000, True),
        Heartbeat(5, 10_000, True, False),
        Heartbeat(4, 10_000, True, False),
        Heartbeat(5, 4_000, True, False),
    ]

    assert region_view(5, beats, now_milliseconds=10_000) == RegionView(5, ready=3, applied=2, undecided=2)


def test_only_fresh_reports_of_ready_workers_count():
    beats = [Heartbeat(5, 10_000, True), Heartbeat(4, 9_000, True), Heartbeat(5, 4_000, True), Heartbeat(5, 10_000, False, False)]

    assert region_view(5, beats, now_milliseconds=10_000) == RegionView(5, ready=2, applied=1)


@pytest.mark.parametrize(
    ("dublin", "holds", "reason"),
    [
        (LaneState("Ready", "Its pod is ready"), "True", "Ready"),
        (LaneState("Progressing", "not ready yet"), "False", "Progressing"),
        (LaneState("Failed", "It cannot be made: 403"), "False", "Failed"),
    ],
)
def test_the_lane_of_each_region_is_shown_and_the_worst_of_them_is_the_reason(dublin: LaneState, holds: str, reason: str):
    lanes = {"frankfurt": LaneState("Ready", "Its pod is ready"), "dublin": dublin}

    status = build_status(tier(), [seen("frankfurt", tier()), seen("dublin", tier()), seen("oslo", tier())], lanes, now=FIRST)

    message = status["conditions"][-1]["message"]
    assert condition(status, "LaneReady") == (holds, reason)
    assert [region.get("lane", {}).get("state") for region in status["regions"]] == ["Ready", dublin.state, None]
    assert message == (f"dublin: {dublin.message}" if holds == "False" else "The dedicated cache lane of every region is ready")


def test_a_lane_that_is_not_ready_keeps_no_tier_from_being_ready():
    """Its requests are served without."""
    lanes = {"frankfurt": LaneState("Progressing", "not ready yet")}

    status = build_status(tier(), [seen("frankfurt", tier())], lanes, now=FIRST)

    assert condition(status, "Ready") == ("True", "Enforced")
    assert condition(status, "Degraded")[0] == "False"


def test_a_tier_without_lanes_says_nothing_of_them():
    status = build_status(tier(), [seen("frankfurt", tier())], {}, now=FIRST)

    assert "LaneReady" not in {condition["type"] for condition in status["conditions"]}
    assert "lane" not in status["regions"][0]
