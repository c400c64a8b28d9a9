"""One window's usage, and the bytes of all windows of an identity; pure, used by `vector.py`, its layout by `policy.py` and `wire.py`.

Bytes: schema, number of windows, five bytes of each shape; then 21 bytes of state a window (newest index, sum of the past, newest, oldest
place that counts), which the script reads and writes in one piece; then the pasts.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidegate.limits.shape import LOG_SIZE, WIDE, Shape, counted_form

SCHEMA = 1
TURN = 2**32
PAST = 2**32 - 2**29
"""Indexes and instants are stored modulo `TURN`; what seems this much later or more is ahead of a clock that went back. In milliseconds
43 days, so longer than any window, and 6 days ahead."""
LARGEST_SUM = 2**53
"""The largest number up to which a double counts exactly; more was never written."""

STATE = struct.Struct("<IddB")
"""Index of the newest sub-window, sum of the past, newest, and the place of the oldest that counts."""


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
            return replace(empty(self.shape, now), newest=self.used)
        if passed <= 0:
            return self
        shape = self.shape
        if passed <= shape.size and self.newest > shape.largest:
            shape = replace(shape, form=shape.form + WIDE)
        slots = (*self.past, self.newest, *(0,) * min(passed, shape.size))[passed:][: shape.size]
        return Record(shape, self.index + passed, (*slots, *(0,) * (shape.size - len(slots))))

    def is_ahead(self, now: int) -> bool:
        """Whether the clock went back since, so far that `at` moves what is counted."""
        if self.shape.is_log:
            return any(at > _stamp(now) for at in self.past)
        return self.index - self.shape.index_at(now) > 1

    def plus(self, amount: int, now: int) -> "Record":
        """This record with `amount` charged now; a log that is full is counted from then on."""
        if not self.shape.is_log:
            return replace(self, newest=self.newest + amount)
        if self.used + amount > LOG_SIZE:
            shape = replace(self.shape, form=counted_form(self.shape.period_seconds))
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
            return self if self.used else empty(shape, now)
        if self.shape.is_log:
            return self._counted(shape, now)
        if shape.size != self.shape.size:
            return replace(empty(shape, now), newest=self.used)
        return self if max(self.past) > shape.largest else replace(self, shape=shape)

    def _ends(self, slot: int) -> float:
        return (self.index - self.shape.size + slot + 1) * self.shape.sub_microseconds

    def _leaves(self, slot: int) -> float:
        return (self.index + slot + 1) * self.shape.sub_microseconds

    def _counted(self, shape: Shape, now: int) -> "Record":
        fresh = empty(shape, now)
        slots = [*fresh.past, 0]
        for at in self.past:
            index = shape.index_at(min(at, now // 1000) * 1000)
            slots[max(0, index - fresh.index + shape.size)] += 1
        return replace(fresh, past=tuple(slots[:-1]), newest=slots[-1])


def head_of(shapes: Sequence[Shape]) -> bytes:
    """The bytes that a vector of these shapes begins with."""
    return bytes([SCHEMA, len(shapes)]) + b"".join(shape.pack() for shape in shapes)


def encode(records: Sequence[Record]) -> bytes:
    """The stored bytes."""
    states = b"".join(map(_pack_state, records))
    pasts = b"".join(record.shape.past.pack(*_pack_past(record)) for record in records)
    return head_of([record.shape for record in records]) + states + pasts


def decode(vector: bytes | None, now: int) -> list[Record]:
    """The records of stored bytes as they were left, instants made whole by `now`; none if `encode` cannot have written them."""
    if not vector or vector[0] != SCHEMA or len(vector) < 2 or len(vector) < 2 + 26 * vector[1]:
        return []
    records: list[Record] = []
    at = 2 + 26 * vector[1]
    for number in range(vector[1]):
        shape = Shape.unpack(vector, 2 + 5 * number)
        state = STATE.unpack_from(vector, 2 + 5 * vector[1] + 21 * number)
        if not shape.is_known or len(vector) < at + shape.past.size:
            return []
        past = shape.past.unpack_from(vector, at)
        if not _is_sound(shape, state, past):
            return []
        records.append(_record(shape, state, past, now))
        at += shape.past.size
    return records


def _stamp(now: int) -> int:
    return -(-now // 1000)


def empty(shape: Shape, now: int) -> Record:
    """Nothing used."""
    return Record(shape, 0, ()) if shape.is_log else Record(shape, shape.index_at(now), (0,) * shape.size)


def _pack_state(record: Record) -> bytes:
    if record.shape.is_log:
        return STATE.pack(0, record.used, 0, 0)
    oldest = next((slot for slot, amount in enumerate(record.past) if amount), record.shape.size)
    return STATE.pack(record.index % TURN, sum(record.past), record.newest, oldest)


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
