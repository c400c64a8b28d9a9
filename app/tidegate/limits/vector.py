"""The usage vector's bytes and rules, pure: the model that `decide.lua` is tested against; `policy.py` packs with it.

Sub-windows: a window of period W is counted in B sub-windows of W / B, 10 or for a day and longer 24. The B + 1 newest count in full, the
running one and the oldest partial one included, so usage in any trailing W never passes the limit (RL-10). The price: at most 1 / (B + 1)
of sustained throughput. Log: a window of at most 16 requests remembers when each was granted, and is exact to a millisecond.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tidegate.contract.tier import Unit, Window
from tidegate.limits.decision import Amounts

SCHEMA = 1
DAY_SECONDS = 86_400
LOG_SIZE = 16
LOG_FORM = 128 + LOG_SIZE
WIDE = 64
"""Added to the form of a window whose past is kept in 8 bytes a sub-window, since its limit does not fit into 4."""
NARROW_LIMIT = 2**32 - 1
TURN = 2**32
PAST = 2**32 - 2**29
"""Indexes and instants are stored modulo `TURN`; what seems this much later or more is ahead of a clock that went back. In milliseconds
43 days, so longer than any window, and 6 days ahead."""
UNITS = tuple(Unit)
MOST_WINDOWS = 16
"""Kept for one identity: those of its tier, at most 8, and of other tiers that it has or had."""
LARGEST_SUM = 9e15
"""About the largest number that a double counts exactly; more was never written."""

_SHAPE = struct.Struct("<BI")
_STATE = struct.Struct("<IddB")


@dataclass(frozen=True, slots=True)
class Shape:
    """How one window is stored.

    Args:
        unit: Place in `UNITS`, plus 4 for each earlier window of the same unit and period.
        period_seconds: Length of the window.
        form: B, or B + `WIDE`, or `LOG_FORM`.
    """

    unit: int
    period_seconds: int
    form: int

    @property
    def is_log(self) -> bool:
        """Whether each request is remembered."""
        return self.form == LOG_FORM

    @property
    def is_known(self) -> bool:
        """Whether there is such a form."""
        return self.period_seconds > 0 and self.size > 0 and (self.form < 128 or self.is_log)

    @property
    def size(self) -> int:
        """Numbers in the past: B sub-windows, or the places of a log."""
        return LOG_SIZE if self.is_log else self.form % WIDE

    @property
    def past(self) -> struct.Struct:
        """Layout of the past."""
        return struct.Struct(f"<{self.size}{'d' if self._is_wide else 'I'}")

    @property
    def largest(self) -> float:
        """What a number of the past can hold."""
        return math.inf if self._is_wide else NARROW_LIMIT

    @property
    def sub_microseconds(self) -> float:
        """Length of a sub-window."""
        return self.period_seconds * 1_000_000 / self.size

    def index_at(self, now: int) -> int:
        """Index since the epoch of the sub-window that `now` (microseconds) is in."""
        return math.floor(now / self.sub_microseconds)

    @property
    def expiry_milliseconds(self) -> int:
        """How long after a charge it may still count."""
        return self.period_seconds * 1000 + 1 if self.is_log else math.ceil((self.size + 1) * self.sub_microseconds / 1000)

    @property
    def _is_wide(self) -> bool:
        return WIDE <= self.form < LOG_FORM

    def pack(self) -> bytes:
        """The five bytes of a shape."""
        return _SHAPE.pack(self.unit, self.form << 24 | self.period_seconds)


@dataclass(frozen=True, slots=True)
class Record:
    """One window's usage.

    Args:
        shape: How it is stored.
        index: Of the newest sub-window, since the epoch; 0 for a log.
        past: Usage of the B sub-windows before it, oldest first; of a log the instants of grants, in milliseconds since the epoch.
        newest: Usage of the newest sub-window; 0 for a log.
    """

    shape: Shape
    index: int
    past: tuple[int, ...]
    newest: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """What the window is known by, whatever its form: unit and period."""
        return self.shape.unit, self.shape.period_seconds

    @property
    def used(self) -> int:
        """Units counted."""
        return len(self.past) if self.shape.is_log else sum(self.past) + self.newest

    def at(self, now: int) -> "Record":
        """This record at `now` (microseconds since the epoch).

        If the clock went back, what is ahead of it counts from now on: nothing reopens, and nothing stays as long as the step was.
        """
        if self.shape.is_log:
            instants = (min(at, _stamp(now)) for at in self.past)
            return replace(self, past=tuple(at for at in instants if now // 1000 - at < self.shape.period_seconds * 1000))
        passed = self.shape.index_at(now) - self.index
        if passed < -1:
            return replace(_empty(self.shape, now), newest=self.used)
        if passed <= 0:
            return self
        shape = self.shape
        if passed <= shape.size and self.newest > shape.largest:
            shape = replace(shape, form=shape.form + WIDE)
        slots = (*self.past, self.newest, *(0,) * min(passed, shape.size))[passed:][: shape.size]
        return Record(shape, self.index + passed, (*slots, *(0,) * (shape.size - len(slots))))

    def plus(self, amount: int, now: int) -> "Record":
        """This record with `amount` charged now; a log that is full is counted from then on."""
        if not self.shape.is_log:
            return replace(self, newest=self.newest + amount)
        if self.used + amount > LOG_SIZE:
            shape = replace(self.shape, form=_counted_form(self.shape.period_seconds))
            return self._counted(shape, now).plus(amount, now)
        return replace(self, past=(*self.past, *(_stamp(now),) * amount))

    def microseconds_until_left(self, amount: int, now: int) -> float:
        """From `now` until `amount` of what is used no longer counts."""
        if self.shape.is_log:
            return (self.past[amount - 1] + self.shape.period_seconds * 1000) * 1000 - now
        for slot, counted in enumerate(self.past):
            amount -= counted
            if amount <= 0:
                return self._leaves(slot) - now
        return self._leaves(self.shape.size) - now

    def used_within(self, period_seconds: int, now: int) -> int:
        """No less than what was used in the last `period_seconds`."""
        if self.shape.period_seconds <= period_seconds:
            return self.used
        if self.shape.is_log:
            return sum(now // 1000 - at < period_seconds * 1000 for at in self.past)
        since = now - period_seconds * 1_000_000
        return self.newest + sum(amount for slot, amount in enumerate(self.past) if self._ends(slot) > since)

    def reshaped(self, shape: Shape, now: int) -> "Record":
        """The same usage in another form, or this record while that form cannot hold it: a log begins empty."""
        if shape.form == self.shape.form:
            return self
        if shape.is_log:
            return self if self.used else _empty(shape, now)
        if self.shape.is_log:
            return self._counted(shape, now)
        if shape.size != self.shape.size:
            return replace(_empty(shape, now), newest=self.used)
        return self if max(self.past) > shape.largest else replace(self, shape=shape)

    def _ends(self, slot: int) -> float:
        return (self.index - self.shape.size + slot + 1) * self.shape.sub_microseconds

    def _leaves(self, slot: int) -> float:
        return (self.index + slot + 1) * self.shape.sub_microseconds

    def _counted(self, shape: Shape, now: int) -> "Record":
        empty = _empty(shape, now)
        slots = [*empty.past, 0]
        for at in self.past:
            index = shape.index_at(min(at, now // 1000) * 1000)
            slots[max(0, index - empty.index + shape.size)] += 1
        return replace(empty, past=tuple(slots[:-1]), newest=slots[-1])


@dataclass(frozen=True, slots=True)
class Ask:
    """One window's part of a request: passes if nothing is checked or `check` more fit under `limit`; `charge` when all pass."""

    shape: Shape
    limit: int
    check: int
    charge: int

    @property
    def key(self) -> tuple[int, int]:
        """What the window is known by."""
        return self.shape.unit, self.shape.period_seconds


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


def shapes_of(windows: Sequence[Window]) -> tuple[Shape, ...]:
    """How a tier's windows are stored: known by unit and period, so that usage outlives a new name or limit (RL-14)."""
    shapes: list[Shape] = []
    for window in windows:
        unit, period = UNITS.index(window.unit), window.period_seconds
        earlier = sum(shape.unit % 4 == unit and shape.period_seconds == period for shape in shapes)
        shapes.append(Shape(unit + 4 * earlier, period, _form(window)))
    return tuple(shapes)


def charges_of(amounts: Amounts) -> dict[int, int]:
    """What a request charges in each unit, by place in `UNITS`."""
    return {place: amounts.of(unit)[1] for place, unit in enumerate(UNITS)}


def head_of(shapes: Sequence[Shape]) -> bytes:
    """The bytes that a vector of these shapes begins with."""
    return bytes([SCHEMA, len(shapes)]) + b"".join(shape.pack() for shape in shapes)


def encode(records: Sequence[Record]) -> bytes:
    """The stored bytes."""
    states = b"".join(map(_pack_state, records))
    pasts = b"".join(record.shape.past.pack(*_pack_past(record)) for record in records)
    return head_of([record.shape for record in records]) + states + pasts


def decode(vector: bytes | None, now: int) -> list[Record]:
    """The records of stored bytes at `now`; none if `encode` cannot have written them."""
    return [record.at(now) for record in _read(vector, now)]


def _read(vector: bytes | None, now: int) -> list[Record]:
    if not vector or vector[0] != SCHEMA or len(vector) < 2 or len(vector) < 2 + 26 * vector[1]:
        return []
    records: list[Record] = []
    at = 2 + 26 * vector[1]
    for number in range(vector[1]):
        unit, both = _SHAPE.unpack_from(vector, 2 + 5 * number)
        shape = Shape(unit, both & 0xFFFFFF, both >> 24)
        state = _STATE.unpack_from(vector, 2 + 5 * vector[1] + 21 * number)
        if not shape.is_known or len(vector) < at + shape.past.size:
            return []
        past = shape.past.unpack_from(vector, at)
        if not _is_sound(shape, state, past):
            return []
        records.append(_record(shape, state, past, now))
        at += shape.past.size
    return records


def decide(vector: bytes | None, asks: Sequence[Ask], now: int, *, count: int = 1, charges: Mapping[int, int] | None = None) -> Outcome:
    """Grant as many of `count` equal requests as fit, each charged to all windows, at `now` in microseconds since the epoch.

    A count of 0 charges once without granting: a response, or nothing. `charges` says what a request weighs in each unit (a place in
    `UNITS`), for the windows of other tiers of this identity, which are charged alike and refuse nothing; by default what `asks` say of it.
    """
    stored = _read(vector, now)
    held = [record.at(now) for record in stored]
    asked = {ask.key: ask for ask in asks}
    records, is_begun = _records(held, asked, now)
    granted = min([count, *(_fitting(record, asked[record.key], count) for record in records if _is_checked(record, asked))])
    times = granted if count else 1
    by_unit = {ask.shape.unit % 4: ask.charge for ask in asks} | dict(charges or {})
    amounts = [by_unit.get(record.shape.unit % 4, 0) * times for record in records]
    after = [record.plus(amount, now) if amount else record for record, amount in zip(records, amounts, strict=True)]
    by_key = {record.key: record for record in after}
    readings = tuple(_reading(by_key[ask.key], ask, now) for ask in asks)
    # What the clock moved must be remembered as it is now, or it would never age.
    is_moved = any(_is_moved(record, now) for record in stored)
    if not any(amounts) and not is_begun and not is_moved:
        return Outcome(granted, readings, None)
    return Outcome(granted, readings, encode(after), max(record.shape.expiry_milliseconds for record in after))


def _records(held: Sequence[Record], asked: Mapping[tuple[int, int], Ask], now: int) -> tuple[list[Record], bool]:
    """The windows in the order of the vector, new ones last; and whether one of those begins with usage."""
    records = [record.reshaped(asked[record.key].shape, now) if record.key in asked else record for record in held]
    known = {record.key for record in held}
    begun = [_begin(ask.shape, held, now) for key, ask in asked.items() if key not in known]
    kept = _drop_some([*records, *begun], asked)
    return kept, any(record.used for record in begun)


def _drop_some(records: list[Record], asked: Mapping[tuple[int, int], Ask]) -> list[Record]:
    """At most `MOST_WINDOWS`: of those that this tier lacks, first the empty ones go, from the end."""
    for is_empty in (True, False):
        for place in range(len(records) - 1, -1, -1):
            if len(records) <= MOST_WINDOWS:
                return records
            if records[place].key not in asked and (records[place].used == 0) is is_empty:
                del records[place]
    return records


def _is_checked(record: Record, asked: Mapping[tuple[int, int], Ask]) -> bool:
    return record.key in asked and asked[record.key].check > 0


def _is_moved(record: Record, now: int) -> bool:
    if record.shape.is_log:
        return any(at > _stamp(now) for at in record.past)
    return record.index - record.shape.index_at(now) > 1


def _form(window: Window) -> int:
    if window.unit is Unit.REQUESTS and window.limit <= LOG_SIZE:
        return LOG_FORM
    return _counted_form(window.period_seconds) + (0 if window.limit <= NARROW_LIMIT else WIDE)


def _counted_form(period_seconds: int) -> int:
    # More sub-windows would waste less throughput and more memory: 10 waste 9 %, 24 waste 4 %, an hour's worth of a day.
    return 10 if period_seconds < DAY_SECONDS else 24


def _stamp(now: int) -> int:
    return -(-now // 1000)


def _empty(shape: Shape, now: int) -> Record:
    return Record(shape, 0, ()) if shape.is_log else Record(shape, shape.index_at(now), (0,) * shape.size)


def _pack_state(record: Record) -> bytes:
    if record.shape.is_log:
        return _STATE.pack(0, record.used, 0, 0)
    oldest = next((slot for slot, amount in enumerate(record.past) if amount), record.shape.size)
    return _STATE.pack(record.index % TURN, sum(record.past), record.newest, oldest)


def _pack_past(record: Record) -> tuple[int, ...]:
    if not record.shape.is_log:
        return record.past
    return tuple(at % TURN for at in record.past) + (0,) * (LOG_SIZE - len(record.past))


def _is_sound(shape: Shape, state: tuple[int, float, float, int], past: tuple[float, ...]) -> bool:
    _, older, newest, _ = state
    if not (older % 1 == 0 <= older and newest % 1 == 0 <= newest and older + newest <= LARGEST_SUM):
        return False
    if shape.is_log:
        return older <= LOG_SIZE and newest == 0
    return all(amount % 1 == 0 <= amount for amount in past) and sum(past) == older


def _record(shape: Shape, state: tuple[int, float, float, int], past: tuple[float, ...], now: int) -> Record:
    head, older, newest, _ = state
    if shape.is_log:
        return Record(shape, 0, tuple(_whole(int(at), now // 1000) for at in past[: int(older)]))
    return Record(shape, _whole(head, shape.index_at(now)), tuple(map(int, past)), int(newest))


def _whole(part: int, near: int) -> int:
    """The number that is `part` modulo `TURN` and nearest to `near`."""
    passed = (near - part) % TURN
    return near - passed if passed < PAST else near - passed + TURN


def _begin(shape: Shape, held: Sequence[Record], now: int) -> Record:
    """A new window goes on from what is known to be used of its unit, so that an edit of a period refills nothing."""
    same_unit = (record for record in held if record.shape.unit % 4 == shape.unit % 4)
    carried = max((record.used_within(shape.period_seconds, now) for record in same_unit), default=0)
    if shape.is_log and carried > LOG_SIZE:
        shape = replace(shape, form=_counted_form(shape.period_seconds))
    return _empty(shape, now).plus(carried, now)


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
