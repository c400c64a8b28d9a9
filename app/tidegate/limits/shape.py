"""How one window of a usage vector is stored; pure, read by `record.py`, `vector.py` and `policy.py`, mirrored by `decide.lua`.

Sub-windows: a window of period W is counted in B sub-windows of W / B, 10 or for a day and longer 24. The B + 1 newest count in full, the
running one and the oldest partial one included, so usage in any trailing W never passes the limit (RL-10). The price: at most 1 / (B + 1)
of sustained throughput. Log: a window of at most 16 requests remembers when each was granted, and is exact to a millisecond.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.contract.tier import Unit, Window

DAY_SECONDS = 86_400
LOG_SIZE = 16
LOG_FORM = 128 + LOG_SIZE
WIDE = 64
"""Added to the form of a window whose past is kept in 8 bytes a sub-window, since its limit does not fit into 4."""
NARROW_LIMIT = 2**32 - 1
UNITS = tuple(Unit)

_SHAPE = struct.Struct("<BI")


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
    def key(self) -> tuple[int, int]:
        """What the window is known by, whatever its form."""
        return self.unit, self.period_seconds

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

    @classmethod
    def unpack(cls, vector: bytes, at: int) -> "Shape":
        """The shape whose five bytes begin at `at`."""
        unit, both = _SHAPE.unpack_from(vector, at)
        return cls(unit, both & 0xFFFFFF, both >> 24)


def shapes_of(windows: Sequence[Window]) -> tuple[Shape, ...]:
    """How a tier's windows are stored: known by unit and period, so that usage outlives a new name or limit (RL-14)."""
    shapes: list[Shape] = []
    for window in windows:
        unit, period = UNITS.index(window.unit), window.period_seconds
        earlier = sum(shape.unit % 4 == unit and shape.period_seconds == period for shape in shapes)
        shapes.append(Shape(unit + 4 * earlier, period, _form(window)))
    return tuple(shapes)


def _form(window: Window) -> int:
    if window.unit is Unit.REQUESTS and window.limit <= LOG_SIZE:
        return LOG_FORM
    return counted_form(window.period_seconds) + (0 if window.limit <= NARROW_LIMIT else WIDE)


def counted_form(period_seconds: int) -> int:
    """Form of a window of that length that is counted in sub-windows, narrow."""
    # More sub-windows would waste less throughput and more memory: 10 waste 9 %, 24 waste 4 %, an hour's worth of a day.
    return 10 if period_seconds < DAY_SECONDS else 24
