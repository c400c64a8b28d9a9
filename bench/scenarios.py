"""What the contenders of `make bench-limits` are asked to decide; each gets its scenario as JSON, whatever its language."""

import json
from dataclasses import asdict, dataclass

PERIODS = {"second": 1, "minute": 60, "hour": 3600}
AMOUNTS = {"Requests": 1, "Cost": 1, "RequestBytes": 100}
"""How much of each unit a decision weighs."""
REFUSED = 0.9


@dataclass(frozen=True, slots=True)
class Counter:
    """At most `limit` of `unit` in `seconds`; a decision weighs `amount`."""

    unit: str
    amount: int
    limit: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """Counters of each identity, how many identities take turns, and how many callers wait for a decision at a time."""

    name: str
    title: str
    counters: tuple[Counter, ...]
    identities: int = 1_000
    concurrencies: tuple[int, ...] = (64,)
    granted_share: float = 1.0

    @property
    def first(self) -> int:
        """Decisions after which Redis knows every identity; none where the identities are new in every run."""
        return self.identities if self.granted_share == 1 else 0

    def to_json(self, decisions: int) -> str:
        """The scenario for runs of `decisions`: where most are to be refused, the limit follows from how often each identity asks."""
        counters = [asdict(counter) for counter in self.counters]
        if self.granted_share < 1:
            counters = [counter | {"limit": max(1, round(decisions * self.granted_share / self.identities))} for counter in counters]
        # Refusals are remembered, in Redis and by some clients: every run has identities of its own then.
        return json.dumps({"counters": counters, "identities": self.identities, "fresh": self.granted_share < 1})


def _counters(units: tuple[str, ...], periods: tuple[str, ...]) -> tuple[Counter, ...]:
    # Far from refusing, yet low enough that no algorithm rounds a charge to nothing.
    return tuple(
        Counter(
            unit,
            AMOUNTS[unit],
            (10**7 if unit == "RequestBytes" else 10**6) * {"second": 1, "minute": 10, "hour": 100}[period],
            PERIODS[period],
        )
        for unit in units
        for period in periods
    )


ONE = _counters(("Requests",), ("minute",))
THREE = _counters(("Requests",), tuple(PERIODS))
NINE = _counters(tuple(AMOUNTS), tuple(PERIODS))
SCENARIOS = (
    Scenario("S1", "one window, 1,000 identities", ONE, concurrencies=(16, 64, 256)),
    Scenario("S2", "three windows, 1,000 identities", THREE),
    Scenario("S3", "nine counters (three units in three windows), 1,000 identities", NINE, concurrencies=(16, 64, 256)),
    Scenario("S4", "one window, one hot identity", ONE, identities=1),
    Scenario(
        "S5",
        "one window, nine in ten refused, 100 identities",
        _counters(("Requests",), ("hour",)),
        identities=100,
        granted_share=1 - REFUSED,
    ),
    Scenario("S6", "one window, one caller", ONE, concurrencies=(1,)),
)
