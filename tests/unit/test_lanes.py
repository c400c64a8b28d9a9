"""How often the API server is asked about lanes, and in which order; what it says to that is in tests/kube/test_lanes.py."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tidegate_operator import lanes as module
from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.kubernetes_api import ApiError
from tidegate_operator.lane_site import LaneRegion, LaneSite
from tidegate_operator.lanes import Lanes

SITE = LaneSite({"app.kubernetes.io/instance": "tidegate"}, {"image": "valkey"}, {"dublin": LaneRegion({}, {})})
READY = {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1}


@dataclass
class Kubernetes:
    """The API server in small: what was asked of it; it refuses the resources in `refused`."""

    requests: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    uid: str = "first"
    generation: int = 1
    version: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """The StatefulSet as it is now."""
    before_answer: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens between an apply of a resource and its answer, once."""

    async def apply(self, version: str, path: str, body: dict[str, Any], *, manager: str) -> dict[str, Any]:
        self._ask("apply", path)
        given = {"uid": self.uid, "generation": self.generation, "resourceVersion": str(self.version)}
        answer = body | {"metadata": body["metadata"] | given}
        if body["kind"] == "StatefulSet":
            self.last = answer
        self.before_answer.pop(path.partition("/")[0], lambda: None)()
        return answer

    async def delete(self, version: str, path: str) -> None:
        self._ask("delete", path)

    def _ask(self, verb: str, path: str) -> None:
        resource = path.partition("/")[0]
        self.requests.append(f"{verb} {resource}")
        self.version += 1
        if resource in self.refused:
            raise ApiError(403, f"PATCH {path}: 403 forbidden")

    def taken(self) -> list[str]:
        requests, self.requests = self.requests, []
        return requests

    async def list(self, version: str, resource: str, query: dict[str, str]) -> dict[str, Any]:
        self._ask("list", resource)
        assert query == {"labelSelector": "app.kubernetes.io/instance=tidegate,tidegate.dev/lane"}
        return {"items": [self.last] if self.last else []}


@pytest.fixture
def kubernetes() -> Kubernetes:
    return Kubernetes()


@pytest.fixture
def lanes(kubernetes: Kubernetes) -> Lanes:
    return Lanes(kubernetes, SITE, b"k" * 32)  # type: ignore[arg-type]


def tier(memory: str = "16Mi", generation: int = 1) -> DesiredTier:
    cache = {"lane": "Dedicated", "memory": memory} if memory else {"lane": "None"}
    return desired_tier("own", "uid", generation, {"windows": [{"name": "minute", "limit": 1, "period": "1m"}], "cache": cache})


APPLIED = ["apply networkpolicies", "apply services", "apply secrets", "apply statefulsets"]
MADE = [APPLIED[-1], *APPLIED[:-1]]
REMOVED = ["delete services", "delete networkpolicies", "delete secrets", "delete statefulsets"]


async def test_a_lane_begins_and_ends_with_the_stateful_set_by_which_it_is_known(lanes: Lanes, kubernetes: Kubernetes):
    """Its pod has the users and the policy before it runs all the same, as it waits for the Secret, which is made last."""
    await lanes.keep(tier())
    made = kubernetes.taken()

    upkeep = await lanes.keep(tier("", 2))

    assert (made, kubernetes.taken()) == (MADE, REMOVED)
    assert (upkeep.lanes, upkeep.is_done) == ({}, True)
    await lanes.keep(tier("", 2))
    assert kubernetes.taken() == []


async def test_an_operator_that_was_restarted_changes_the_lanes_that_are_there_in_the_order_of_a_change(kubernetes: Kubernetes):
    """Another `lane.key`: a pod that is rolled before its Secret is there would refuse its workers, and nothing would roll it again."""
    await Lanes(kubernetes, SITE, b"k" * 32).keep(tier())  # type: ignore[arg-type]
    kubernetes.taken()
    restarted = Lanes(kubernetes, SITE, b"n" * 32)  # type: ignore[arg-type]

    await restarted.recall()
    await restarted.keep(tier())

    assert kubernetes.taken() == ["list statefulsets", *APPLIED]


async def test_a_tier_that_is_looked_at_again_costs_no_request(lanes: Lanes, kubernetes: Kubernetes):
    await lanes.keep(tier())
    kubernetes.taken()

    upkeep = await lanes.keep(tier())

    assert kubernetes.taken() == []
    assert upkeep.lanes["dublin"].state == "Progressing"


async def test_what_is_not_watched_is_applied_again_after_a_while(lanes: Lanes, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "DRIFT_SECONDS", 0)
    await lanes.keep(tier())
    kubernetes.taken()

    await lanes.keep(tier())

    assert kubernetes.taken() == APPLIED


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_stateful_set_that_somebody_changed_or_removed_is_applied_again(lanes: Lanes, kubernetes: Kubernetes, is_gone: bool):
    await lanes.keep(tier())
    kubernetes.taken()
    changed = kubernetes.last | {"metadata": kubernetes.last["metadata"] | {"generation": 2, "resourceVersion": "99"}}

    assert lanes.see(changed, is_gone=is_gone) == "own"
    await lanes.keep(tier())

    assert kubernetes.taken() == (MADE if is_gone else APPLIED)


@pytest.mark.parametrize("resource", ["statefulsets", "secrets"])
async def test_a_stateful_set_that_somebody_removes_while_its_lane_is_made_is_made_again_at_the_next_look(
    lanes: Lanes, kubernetes: Kubernetes, resource: str
):
    """Whether the event comes before the answer to us or while the rest is made, it is what has the tier looked at again."""

    def remove() -> None:
        gone = kubernetes.last | {"metadata": kubernetes.last["metadata"] | {"resourceVersion": "99"}}
        assert lanes.see(gone, is_gone=True) == "own"

    kubernetes.before_answer = {resource: remove}
    await lanes.keep(tier())
    kubernetes.taken()

    await lanes.keep(tier())

    assert kubernetes.taken() == MADE


async def test_a_stateful_set_that_somebody_replaced_by_another_is_applied_again(lanes: Lanes, kubernetes: Kubernetes):
    """As `kubectl replace --force` does. Both have the first generation, and nothing orders the news of the two."""
    await lanes.keep(tier())
    kubernetes.taken()
    end, other = (kubernetes.last["metadata"] | {"resourceVersion": version} for version in ("98", "99"))

    lanes.see(kubernetes.last | {"metadata": other | {"uid": "second"}})
    lanes.see(kubernetes.last | {"metadata": end}, is_gone=True)
    await lanes.keep(tier())

    assert kubernetes.taken() == APPLIED


async def test_an_answer_that_is_older_than_the_last_event_changes_no_state(lanes: Lanes, kubernetes: Kubernetes):
    """The controller's word may come before our own answer does."""
    await lanes.keep(tier())
    lanes.see(kubernetes.last | {"status": READY, "metadata": kubernetes.last["metadata"] | {"resourceVersion": "99"}})

    upkeep = await lanes.keep(tier(generation=2))
    lanes.see(kubernetes.last)

    assert upkeep.lanes["dublin"].state == "Ready"
    assert (await lanes.keep(tier(generation=2))).lanes["dublin"].state == "Ready"


@pytest.mark.parametrize(("comes_before_the_answer", "state"), [(True, "Ready"), (False, "Progressing")])
async def test_an_answer_is_newer_than_the_last_event_unless_that_came_while_it_was_waited_for(
    lanes: Lanes, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch, comes_before_the_answer: bool, state: str
):
    """Its version tells nothing where the API server's data were restored from a backup: versions go back, and lanes stayed as known."""
    monkeypatch.setattr(module, "DRIFT_SECONDS", 0)
    await lanes.keep(tier())

    def become_ready() -> None:
        lanes.see(kubernetes.last | {"status": READY, "metadata": kubernetes.last["metadata"] | {"resourceVersion": "99"}})

    if comes_before_the_answer:
        kubernetes.before_answer = {"statefulsets": become_ready}
    else:
        become_ready()

    assert (await lanes.keep(tier())).lanes["dublin"].state == state


async def test_a_lane_that_was_made_again_is_not_forgotten_at_the_late_news_of_its_predecessors_end(lanes: Lanes, kubernetes: Kubernetes):
    """Dedicated, None, Dedicated, None within a moment: nobody would remove the second lane, which nothing orders after the first."""
    await lanes.keep(tier())
    first = kubernetes.last | {"metadata": kubernetes.last["metadata"] | {"resourceVersion": str(kubernetes.version + 1)}}
    await lanes.keep(tier("", 2))
    await lanes.keep(tier(generation=3))
    kubernetes.taken()

    lanes.see(first, is_gone=True)
    await lanes.keep(tier("", 4))

    assert kubernetes.taken() == REMOVED


async def test_a_lane_that_was_made_in_part_is_removed_when_it_is_not_wanted_any_more(lanes: Lanes, kubernetes: Kubernetes):
    kubernetes.refused = {"statefulsets"}
    failed = await lanes.keep(tier())
    kubernetes.refused = set()
    kubernetes.taken()

    await lanes.keep(tier("", 2))

    assert (failed.is_done, failed.lanes["dublin"].state) == (False, "Failed")
    assert "403 forbidden" in failed.lanes["dublin"].message
    assert kubernetes.taken() == REMOVED


async def test_a_lane_that_could_not_be_begun_is_begun_with_its_stateful_set_again(lanes: Lanes, kubernetes: Kubernetes):
    kubernetes.refused = {"statefulsets"}
    await lanes.keep(tier())
    kubernetes.refused = set()

    assert (await lanes.keep(tier())).is_done
    assert kubernetes.taken() == ["apply statefulsets", *MADE]


async def test_a_removal_that_fails_is_not_done(lanes: Lanes, kubernetes: Kubernetes):
    await lanes.keep(tier())
    kubernetes.refused = {"secrets"}

    assert not (await lanes.keep(tier("", 2))).is_done
    kubernetes.refused = set()
    assert (await lanes.keep(tier("", 2))).is_done


async def test_a_lane_of_another_tier_is_left_alone(lanes: Lanes, kubernetes: Kubernetes):
    await lanes.keep(tier())
    kubernetes.taken()

    await lanes.keep(desired_tier("other", "other-uid", 1, {"windows": [{"name": "minute", "limit": 1, "period": "1m"}]}))

    assert kubernetes.taken() == []


async def test_a_spec_that_was_never_valid_touches_no_lane(lanes: Lanes, kubernetes: Kubernetes):
    await lanes.keep(tier())
    kubernetes.taken()

    upkeep = await lanes.keep(desired_tier("own", "uid", 2, {"windows": []}))

    assert (kubernetes.taken(), upkeep.is_done) == ([], True)
