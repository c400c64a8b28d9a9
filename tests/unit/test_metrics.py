"""Plain counts as Prometheus reads them."""

import time
from types import SimpleNamespace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from tidegate.limits.measures import OUTCOMES, Measures
from tidegate.metrics import PlatformMetrics

Labels = tuple[tuple[str, str], ...]


def shown(measures: Measures, *tiers: str, revision: int = 7, unknown: int = 0) -> dict[tuple[str, Labels], float]:
    registry = CollectorRegistry()
    snapshot = SimpleNamespace(revision=revision, tiers=dict.fromkeys(tiers))
    registry.register(PlatformMetrics(measures, SimpleNamespace(snapshot=snapshot, unknown_tiers=unknown, workers=4)))
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
