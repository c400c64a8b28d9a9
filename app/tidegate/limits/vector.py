"""The usage vector's bytes and rules, pure: the model that `decide.lua` is tested against; its packing is used by `policy.py`.

A window of period W is counted in sub-windows of W / 10. The eleven newest count in full, the running one and the oldest
partial one included, so usage in any trailing W never passes the limit (RL-10). The price: at most 1/11 of sustained throughput.
"""

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidegate.contract.tier import Window

SCHEMA = 1
SUB_WINDOWS = 10
"""More would waste less throughput and more memory: 10 waste 9 %, 60 waste 2 % at 5 times the bytes."""
COUNTERS = SUB_WINDOWS + 1
RECORD = struct.Struct(f"<IId{COUNTERS}d")
"""Window id, period in seconds, index of the newest sub-window, counters from oldest to newest."""


@dataclass(frozen=True, slots=True)
class Record:
    """One window's usage; `head` is the index of the newest sub-window since the epoch, `counters[-1]` its usage."""

    id: int
    period_seconds: int
    head: int
    counters: tuple[int, ...] = (0,) * COUNTERS

    @property
    def sub_microseconds(self) -> int:
        """Length of a sub-window."""
        return self.period_seconds * 1_000_000 // SUB_WINDOWS

    @property
    def used(self) -> int:
        """Units counted."""
        return sum(self.counters)

    def at(self, now: int) -> "Record":
        """This record at `now` (microseconds since the epoch); a clock that went back leaves it as it is."""
        passed = now // self.sub_microseconds - self.head
        if passed <= 0:
            return self
        return replace(self, head=self.head + passed, counters=(*self.counters[passed:], *(0,) * min(passed, COUNTERS)))

    def plus(self, amount: int) -> "Record":
        """This record with `amount` charged to its newest sub-window."""
        return replace(self, counters=(*self.counters[:-1], self.counters[-1] + amount))

    def microseconds_until_left(self, amount: int, now: int) -> int | None:
        """From `now` until `amount` of the counted usage no longer counts; None if less is counted."""
        for age, counter in enumerate(self.counters):
            amount -= counter
            if amount <= 0:
                return (self.head + 1 + age) * self.sub_microseconds - now
        return None


@dataclass(frozen=True, slots=True)
class Ask:
    """One window's part of a request: pass if nothing is checked or `check` more fit under `limit`; `charge` when all pass."""

    id: int
    period_seconds: int
    limit: int
    check: int
    charge: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One window's answer, in units and microseconds; `wait` is 0 when the window had room."""

    used: int
    reset: int
    wait: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a decision returns and stores; `vector` is None when nothing is written."""

    readings: tuple[Reading, ...]
    vector: bytes | None
    expiry_milliseconds: int = 0

    @property
    def granted(self) -> bool:
        """Whether every window had room."""
        return not any(reading.wait for reading in self.readings)


def window_id(window: Window) -> int:
    """What identifies a window over edits of its tier: name and unit, never limit or place."""
    return zlib.crc32(f"{window.name}|{window.unit}".encode())


def encode(records: Sequence[Record]) -> bytes:
    """The stored bytes."""
    packed = (RECORD.pack(record.id, record.period_seconds, record.head, *record.counters) for record in records)
    return bytes([SCHEMA]) + b"".join(packed)


def decode(vector: bytes | None) -> list[Record]:
    """The records of stored bytes; what `encode` cannot have written is left out."""
    if not vector or vector[0] != SCHEMA or (len(vector) - 1) % RECORD.size:
        return []
    return [_record(*values) for values in RECORD.iter_unpack(vector[1:]) if _is_sound(*values)]


def decide(vector: bytes | None, asks: Sequence[Ask], now: int) -> Outcome:
    """Check every window, then charge all or none, at `now` in microseconds since the epoch."""
    held = [record.at(now) for record in decode(vector)]
    found = [_find(held, ask, now) for ask in asks]
    waits = [_wait(record, ask, now) for record, ask in zip(found, asks, strict=True)]
    is_granted = not any(waits)
    after = [record.plus(ask.charge * is_granted) for record, ask in zip(found, asks, strict=True)]
    readings = tuple(_reading(record, wait, now) for record, wait in zip(after, waits, strict=True))
    if not is_granted or not any(ask.charge for ask in asks):
        return Outcome(readings, None)
    changed = {(record.id, record.period_seconds): record for record in [*held, *after]}
    stored = [record for record in changed.values() if record.used]
    return Outcome(readings, encode(stored), expiry_milliseconds=max(record.period_seconds for record in stored) * 1100)


def _is_sound(_: int, period_seconds: int, head: float, *counters: float) -> bool:
    return period_seconds > 0 and 0 <= head < math.inf and 0 <= sum(counters) < math.inf


def _record(id_: int, period_seconds: int, head: float, *counters: float) -> Record:
    return Record(id_, period_seconds, int(head), tuple(map(int, counters)))


def _find(held: Sequence[Record], ask: Ask, now: int) -> Record:
    same = [record for record in held if record.id == ask.id]
    for record in same:
        if record.period_seconds == ask.period_seconds:
            return record
    # A period that was made longer goes on from what was used; a shorter one cannot tell its part from the longer one's counters.
    carried = max((record.used for record in same if record.period_seconds < ask.period_seconds), default=0)
    return Record(ask.id, ask.period_seconds, 0).at(now).plus(carried)


def _wait(record: Record, ask: Ask, now: int) -> int:
    excess = record.used + ask.check - ask.limit
    if ask.check == 0 or excess <= 0:
        return 0
    return record.microseconds_until_left(excess, now) or COUNTERS * record.sub_microseconds


def _reading(record: Record, wait: int, now: int) -> Reading:
    return Reading(record.used, record.microseconds_until_left(1, now) or 0, wait)
