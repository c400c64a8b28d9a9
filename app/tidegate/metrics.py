"""What a worker shows to Prometheus: plain counts become metrics only when somebody asks; made by `application.py`.

Whatever else is registered with prometheus_client's own registry, as by your resources, is shown too. See docs/metrics.md.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidegate.admission.measures import OUTCOMES as ADMISSION_OUTCOMES
from tidegate.admission.seats import Seats
from tidegate.cache.measures import OUTCOMES as CACHE_OUTCOMES
from tidegate.cache.measures import CacheMeasures
from tidegate.contract.tier import Lane
from tidegate.distribution import Distribution
from tidegate.idempotency.measures import CLAIM_EVENTS, MutationMeasures
from tidegate.idempotency.measures import OUTCOMES as MUTATION_OUTCOMES
from tidegate.limits.measures import OUTCOMES, Measures
from tidegate.store.measured import MeasuredStore
from tidegate.tiers.snapshot import TierSnapshot

Name = TypeVar("Name", bound=str)


class Tiers(Protocol):
    """The part of `TierSource` that is shown."""

    unknown_tiers: int

    @property
    def workers(self) -> int:
        """How many share the region's limits, 0 if that is unknown."""

    @property
    def snapshot(self) -> TierSnapshot:
        """The tiers in force."""


class PlatformMetrics(Collector):
    """The metrics of one worker; none is told apart by a customer."""

    def __init__(
        self, measures: Measures, tiers: Tiers, mutations: MutationMeasures, store: MeasuredStore, seats: Seats, cache: CacheMeasures
    ) -> None:
        self._measures = measures
        self._cache = cache
        self._tiers = tiers
        self._mutations = mutations
        self._store = store
        self._seats = seats

    def show(self) -> None:
        """Have them shown."""
        REGISTRY.register(self)

    def hide(self) -> None:
        """Have them shown no more."""
        REGISTRY.unregister(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that the applications of two regions in one process do not clash."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        yield from self._of_limits()
        yield from self._of_mutations()
        yield from self._of_store()

    def _of_limits(self) -> Iterator[Metric]:
        measures, snapshot = self._measures, self._tiers.snapshot
        yield _by_tier("tidegate_limits_decisions", "Requests by what became of them.", OUTCOMES, measures.decisions, snapshot)
        is_lost = not measures.decides(time.monotonic())
        yield GaugeMetricFamily("tidegate_limits_store_lost", "1 while the region's Redis does not decide.", is_lost)
        yield CounterMetricFamily(
            "tidegate_limits_remembered_refusals", "Refusals repeated without asking Redis.", measures.remembered_refusals
        )
        yield _histogram("tidegate_limits_batch_decisions", "Decisions in a script call.", {(): measures.batch_decisions})
        yield _histogram("tidegate_limits_round_trip_seconds", "From a script call to its answer.", {(): measures.round_trip_seconds})
        yield GaugeMetricFamily(
            "tidegate_limits_workers", "Workers of the region, as this one shares limits with them.", self._tiers.workers
        )
        yield from self._admission(snapshot)
        yield self._cached()
        yield CounterMetricFamily("tidegate_tiers_unknown", "Requests that named an unknown tier.", self._tiers.unknown_tiers)
        yield GaugeMetricFamily("tidegate_tiers_revision", "Revision of the tiers in force.", snapshot.revision)

    def _admission(self, snapshot: TierSnapshot) -> Iterator[Metric]:
        seats, measures = self._seats, self._seats.measures
        text = "Requests that need a seat, by how they got one or did not."
        yield _by_tier("tidegate_admission_requests", text, ADMISSION_OUTCOMES, measures.requests, snapshot)
        yield GaugeMetricFamily("tidegate_admission_seats", "Requests that may run at once.", seats.seats)
        yield GaugeMetricFamily("tidegate_admission_seats_taken", "Requests that run.", seats.taken)
        yield GaugeMetricFamily("tidegate_admission_waiting", "Requests that wait for a seat.", seats.waiting)
        yield _histogram("tidegate_admission_wait_seconds", "In the queue, whatever became of the request.", {(): measures.wait_seconds})

    def _of_mutations(self) -> Iterator[Metric]:
        measures = self._mutations
        yield _counter("tidegate_mutations", "Mutations by what became of them.", "outcome", measures.outcomes, MUTATION_OUTCOMES)
        yield CounterMetricFamily(
            "tidegate_mutations_repeated_runs", "Runs of handlers whose data had changed meanwhile.", measures.repeated_runs
        )
        yield _counter("tidegate_mutation_claims", "What happened to claims.", "event", measures.claims, CLAIM_EVENTS)

    def _of_store(self) -> Iterator[Metric]:
        calls = {"read": self._store.reads, "commit": self._store.commits}
        seconds: dict[tuple[str, ...], Distribution] = {(name,): made.seconds for name, made in calls.items()}
        unanswered = {name: made.unanswered for name, made in calls.items()}
        yield _histogram("tidegate_store_call_seconds", "From a call of the store to its answer.", seconds, labels=("call",))
        yield _counter("tidegate_store_unanswered_calls", "Calls that the store did not answer.", "call", unanswered, tuple(calls))

    def _cached(self) -> Metric:
        family = CounterMetricFamily(
            "tidegate_cache_requests", "Requests to cached routes by what became of them.", labels=("lane", "outcome")
        )
        for lane in Lane:
            for outcome in CACHE_OUTCOMES:
                family.add_metric((lane, outcome), self._cache.outcomes.get((lane, outcome), 0))
        return family


def _by_tier(name: str, text: str, outcomes: Iterable[str], counts: Mapping[tuple[str, str], int], snapshot: TierSnapshot) -> Metric:
    family = CounterMetricFamily(name, text, labels=("tier", "outcome"))
    # From 0 on, so that the first of its kind shows as an increase.
    for tier in sorted({*snapshot.tiers, *(tier for tier, _ in counts)}):
        for outcome in outcomes:
            family.add_metric((tier, outcome), counts.get((tier, outcome), 0))
    return family


def _counter(name: str, text: str, label: str, counts: Mapping[Name, int], names: Sequence[Name]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for each in names:
        family.add_metric((each,), counts.get(each, 0))
    return family


def _histogram(name: str, text: str, distributions: Mapping[tuple[str, ...], Distribution], labels: tuple[str, ...] = ()) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, distribution in distributions.items():
        bounds = [*(str(float(bound)) for bound in distribution.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(distribution.counts), strict=True)), distribution.total)
    return family
