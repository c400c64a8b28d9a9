"""Plain counts as Prometheus reads them."""

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from tidegate.admission.measures import OUTCOMES as ADMISSION_OUTCOMES
from tidegate.admission.seats import Seats
from tidegate.cache.measures import OUTCOMES as CACHE_OUTCOMES
from tidegate.cache.measures import CacheMeasures
from tidegate.contract.tier import Tier
from tidegate.idempotency.measures import CLAIM_EVENTS, MutationMeasures
from tidegate.idempotency.measures import OUTCOMES as MUTATION_OUTCOMES
from tidegate.limits.measures import OUTCOMES, Measures
from tidegate.metrics import PlatformMetrics
from tidegate.store.errors import StoreUnavailableError
from tidegate.store.measured import MeasuredStore

Labels = tuple[tuple[str, str], ...]


def shown(
    measures: Measures | None = None,
    *tiers: str,
    revision: int = 7,
    unknown: int = 0,
    mutations: MutationMeasures | None = None,
    store: MeasuredStore | None = None,
    seats: Seats | None = None,
    cache: CacheMeasures | None = None,
) -> dict[tuple[str, Labels], float]:
    registry = CollectorRegistry()
    snapshot = SimpleNamespace(revision=revision, tiers=dict.fromkeys(tiers))
    source = SimpleNamespace(snapshot=snapshot, unknown_tiers=unknown, workers=4)
    kept = mutations or MutationMeasures(), store or MeasuredStore(None), seats or Seats(1), cache or CacheMeasures()
    registry.register(PlatformMetrics(measures or Measures(), source, *kept))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def decided(tier: str, outcome: str) -> tuple[str, Labels]:
    return "tidegate_limits_decisions_total", (("outcome", outcome), ("tier", tier))


def test_decisions_are_shown_by_tier_and_outcome_from_zero_on():
    """Also of a tier that is gone: a counter that disappears would hide what happened."""
    measures = Measures()
    measures.decisions["gone", "refused"] += 3

    values = shown(measures, "free")

    expected = {decided(tier, outcome): 0.0 for tier in ("free", "gone") for outcome in OUTCOMES} | {decided("gone", "refused"): 3.0}
    assert {key: value for key, value in values.items() if key[0] == "tidegate_limits_decisions_total"} == expected


def test_requests_to_cached_routes_are_shown_by_kind_of_lane_and_outcome_from_zero_on():
    cache = CacheMeasures()
    cache.outcomes["Dedicated", "hit"] += 3

    values = {key[1]: value for key, value in shown(Measures(), cache=cache).items() if key[0] == "tidegate_cache_requests_total"}

    assert len(values) == 3 * len(CACHE_OUTCOMES)
    assert {key: value for key, value in values.items() if value} == {(("lane", "Dedicated"), ("outcome", "hit")): 3.0}


def test_numbers_are_shown_as_they_are():
    measures = Measures()
    measures.remembered_refusals = 4
    measures.lost[0] = time.monotonic()

    values = shown(measures, revision=1_790_000_000_000_001, unknown=5)

    assert values["tidegate_limits_remembered_refusals_total", ()] == 4
    assert values["tidegate_limits_store_lost", ()] == 1
    assert values["tidegate_tiers_unknown_total", ()] == 5
    assert values["tidegate_tiers_revision", ()] == 1_790_000_000_000_001


def test_a_distribution_is_shown_in_buckets_that_hold_all_smaller_ones():
    measures = Measures()
    for size in (1, 3, 4, 1_000):
        measures.batch_decisions.observe(size)

    values = shown(measures)

    buckets = {
        bound: values["tidegate_limits_batch_decisions_bucket", (("le", bound),)] for bound in ("1.0", "2.0", "4.0", "512.0", "+Inf")
    }
    assert buckets == {"1.0": 1, "2.0": 1, "4.0": 3, "512.0": 3, "+Inf": 4}
    assert values["tidegate_limits_batch_decisions_sum", ()] == 1_008
    assert values["tidegate_limits_batch_decisions_count", ()] == 4


def test_a_loss_that_nobody_meets_again_is_an_alarm_for_a_minute():
    """A quiet worker would otherwise show it until its next request, whatever became of Redis."""
    measures = Measures()
    measures.lost[0] = 100.0

    assert [measures.decides(now) for now in (100.0, 159.0, 161.0)] == [False, False, True]


def test_mutations_and_claims_are_shown_by_what_became_of_them_from_zero_on():
    measures = MutationMeasures()
    measures.outcomes["replayed"] += 3
    measures.claims["lost"] += 2
    measures.repeated_runs = 7

    values = shown(mutations=measures)

    outcomes = {("tidegate_mutations_total", (("outcome", outcome),)): 0.0 for outcome in MUTATION_OUTCOMES}
    events = {("tidegate_mutation_claims_total", (("event", event),)): 0.0 for event in CLAIM_EVENTS}
    assert {key: value for key, value in values.items() if key[0] == "tidegate_mutations_total"} == outcomes | {
        ("tidegate_mutations_total", (("outcome", "replayed"),)): 3
    }
    assert {key: value for key, value in values.items() if key[0] == "tidegate_mutation_claims_total"} == events | {
        ("tidegate_mutation_claims_total", (("event", "lost"),)): 2
    }
    assert values["tidegate_mutations_repeated_runs_total", ()] == 7


class Away:
    """A store that answers every other call."""

    def __init__(self) -> None:
        self._calls = 0

    async def read(self, keys: Sequence[str], *, or_stale: bool = False) -> dict[str, object]:
        self._calls += 1
        if self._calls % 2 == 0:
            raise StoreUnavailableError("away")
        return {"or_stale": or_stale}

    async def commit(self, expected: Mapping[str, int], writes: Sequence[object]) -> object:
        return await self.read(())


async def test_calls_of_the_store_are_timed_if_answered_and_counted_if_not():
    store = MeasuredStore(Away())

    answer = await store.read(["key"], or_stale=True)
    with pytest.raises(StoreUnavailableError):
        await store.commit({}, [])
    await store.commit({}, [])
    values = shown(store=store)

    assert answer == {"or_stale": True}
    kinds = [(("call", name),) for name in ("read", "commit")]
    assert [values["tidegate_store_call_seconds_count", kind] for kind in kinds] == [1, 1]
    assert all(0 < values["tidegate_store_call_seconds_sum", kind] < 10 for kind in kinds)
    assert [values["tidegate_store_unanswered_calls_total", kind] for kind in kinds] == [0, 1]


async def test_seats_are_shown_as_they_are_taken():
    seats = Seats(3)
    tier = Tier.from_spec("free", {"windows": [{"name": "minute", "limit": 9, "period": "1m"}]})
    seats.take("a", tier)

    values = shown(Measures(), "free", seats=seats)

    names = ("seats", "seats_taken", "waiting", "wait_seconds_count")
    assert [values[f"tidegate_admission_{name}", ()] for name in names] == [3, 1, 0, 0]
    requests = {
        outcome: values["tidegate_admission_requests_total", (("outcome", outcome), ("tier", "free"))] for outcome in ADMISSION_OUTCOMES
    }
    assert requests == {**dict.fromkeys(ADMISSION_OUTCOMES, 0), "at_once": 1}
