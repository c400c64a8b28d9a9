"""The rules of the usage vector, pure: the model that `decide.lua` is tested against; `local.py` decides by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tidegate.limits.decision import Amounts
from tidegate.limits.record import Record, decode, empty, encode
from tidegate.limits.shape import LOG_SIZE, UNITS, Shape, counted_form

MOST_WINDOWS = 16
"""Kept for one identity: those of its tier, at most 8, and of other tiers that it has or had."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One window's part of a request: passes if nothing is checked or `check` more fit under `limit`; `charge` when all pass."""

    shape: Shape
    limit: int
    check: int
    charge: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One window's answer, in units and microseconds; `wait` is 0 when one more such request has room."""

    used: int
    reset: float
    wait: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decision on several equal requests returns and stores; `vector` is None when nothing is written."""

    granted: int
    readings: tuple[Reading, ...]
    vector: bytes | None
    expiry_milliseconds: int = 0


def charges_of(amounts: Amounts) -> dict[int, int]:
    """What a request charges in each unit, by place in `UNITS`."""
    return {place: amounts.of(unit)[1] for place, unit in enumerate(UNITS)}


def decide(vector: bytes | None, asks: Sequence[Ask], now: int, *, count: int = 1, charges: Mapping[int, int] | None = None) -> Outcome:
    """Grant as many of `count` equal requests as fit, each charged to all windows, at `now` in microseconds since the epoch.

    A count of 0 charges once without granting: a response, or nothing. `charges` says what a request weighs in each unit (a place in
    `UNITS`), for the windows of other tiers of this identity, which are charged alike and refuse nothing; by default what `asks` say of it.
    """
    stored = decode(vector, now)
    held = [record.at(now) for record in stored]
    asked = {ask.shape.key: ask for ask in asks}
    records, is_begun = _records(held, asked, now)
    granted = min([count, *(_fitting(record, asked[record.shape.key], count) for record in records if _is_checked(record, asked))])
    times = granted if count else 1
    by_unit = {ask.shape.unit % 4: ask.charge for ask in asks} | dict(charges or {})
    amounts = [by_unit.get(record.shape.unit % 4, 0) * times for record in records]
    after = [record.plus(amount, now) if amount else record for record, amount in zip(records, amounts, strict=True)]
    by_key = {record.shape.key: record for record in after}
    readings = tuple(_reading(by_key[ask.shape.key], ask, now) for ask in asks)
    # What the clock moved must be remembered as it is now, or it would never age.
    is_moved = any(record.is_ahead(now) for record in stored)
    if not any(amounts) and not is_begun and not is_moved:
        return Outcome(granted, readings, None)
    return Outcome(granted, readings, encode(after), max(record.shape.expiry_milliseconds for record in after))


def _records(held: Sequence[Record], asked: Mapping[tuple[int, int], Ask], now: int) -> tuple[list[Record], bool]:
    """The windows in the order of the vector, new ones last; and whether one of those begins with usage."""
    records = [record.reshaped(asked[record.shape.key].shape, now) if record.shape.key in asked else record for record in held]
    known = {record.shape.key for record in held}
    begun = [_begin(ask.shape, held, now) for key, ask in asked.items() if key not in known]
    kept = _drop_some([*records, *begun], asked)
    return kept, any(record.used for record in begun)


def _drop_some(records: list[Record], asked: Mapping[tuple[int, int], Ask]) -> list[Record]:
    """At most `MOST_WINDOWS`: of those that this tier lacks, the empty ones go first, then those that a longer one of their unit covers."""
    for is_empty in (True, False):
        for place in range(len(records) - 1, -1, -1):
            if len(records) <= MOST_WINDOWS:
                return records
            record = records[place]
            if record.shape.key not in asked and (record.used == 0 or (not is_empty and _has_longer(records, record))):
                del records[place]
    return records


def _has_longer(records: list[Record], record: Record) -> bool:
    return any(
        other is not record and other.shape.unit % 4 == record.shape.unit % 4 and other.shape.period_seconds >= record.shape.period_seconds
        for other in records
    )


def _is_checked(record: Record, asked: Mapping[tuple[int, int], Ask]) -> bool:
    return record.shape.key in asked and asked[record.shape.key].check > 0


def _begin(shape: Shape, held: Sequence[Record], now: int) -> Record:
    """A new window goes on from what is known to be used of its unit, so that an edit of a period refills nothing."""
    same_unit = (record for record in held if record.shape.unit % 4 == shape.unit % 4)
    carried = max((record.used_within(shape.period_seconds, now) for record in same_unit), default=0)
    if shape.is_log and carried > LOG_SIZE:
        shape = replace(shape, form=counted_form(shape.period_seconds))
    return empty(shape, now).plus(carried, now)


def _fitting(record: Record, ask: Ask, count: int) -> int:
    room = ask.limit - record.used
    if room < ask.check:
        return 0
    return room // ask.charge if ask.charge else count


def _reading(record: Record, ask: Ask, now: int) -> Reading:
    reset = record.microseconds_until_left(1, now) if record.used else 0
    excess = record.used + ask.check - ask.limit
    if ask.check == 0 or excess <= 0:
        return Reading(record.used, reset, 0)
    if ask.check > ask.limit:
        return Reading(record.used, reset, ask.shape.period_seconds * 1_000_000)
    return Reading(record.used, reset, record.microseconds_until_left(excess, now))
