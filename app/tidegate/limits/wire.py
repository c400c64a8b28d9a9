"""The bytes of one batch, to `decide.lua` and back; pure, called by `redis.py`."""

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from tidegate.contract import keys
from tidegate.limits.decision import Amounts, Decision, Windows, WindowState
from tidegate.limits.group_commit import Run
from tidegate.limits.policy import Policy
from tidegate.limits.record import STATE

_RUN = struct.Struct("<HIddd")
_NOW = struct.Struct("<d")
_ANSWER = struct.Struct("<IB")
_FLAGS_AT = 4  # in it
_READING = struct.Struct("<dd")
_WAIT_BYTES = 8
_UNKNOWN, _PARTIAL, _BROKEN, _UNDECIDED = 1, 4, 8, 16


class Answer(NamedTuple):
    """What the script says of a run, if that is more than that all of it is granted.

    Args:
        granted: How many of its requests pass, from the first.
        read: Gives the windows after that.
        waits: If not all pass: seconds until one more such request fits into each window, 0 where it does.
        is_unknown: Bytes of unknown form were found and replaced.
        is_broken: The key holds no string; nothing was decided.
    """

    granted: int
    read: Callable[[], Windows] = tuple
    waits: tuple[float, ...] = ()
    is_unknown: bool = False
    is_broken: bool = False


class Grant(Decision):
    """All of a run passes. Its windows stay in `reply`, from `at` on, until somebody looks; made for most requests, and so made cheaply."""

    __slots__ = ("_at", "_now", "_policy", "_reply")
    granted = True
    violated = ()
    retry_after_seconds = 0.0

    def __init__(self, policy: Policy, reply: bytes, at: int, now: float) -> None:
        self._policy = policy
        self._reply = reply
        self._at = at
        self._now = now

    @property
    def windows(self) -> Windows:
        """States in the tier's order."""
        return _states(self._policy, self._reply, self._at, self._now)


def key_names(batch: Sequence[Run[Any]]) -> list[str]:
    """The script's keys: the first of every run, then the second of every run, if there are any."""
    return [keys.usage(run.tids[place]) for place in range(len(batch[0].tids)) for run in batch]


def arguments(batch: Sequence[Run[Any]]) -> list[bytes]:
    """The script's arguments: each policy once, then the runs."""
    places: dict[Policy, int] = {}
    packed: dict[tuple[Policy, Amounts, int], bytes] = {}
    runs: list[bytes] = []
    last: tuple[Policy, Amounts, int] | None = None
    for run in batch:
        # Most runs of a batch are alike, many one after the other: one request of one tier, at the usual cost.
        alike = run.policy, run.amounts, len(run.callers)
        if alike != last:
            text, last = packed.get(alike) or packed.setdefault(alike, _pack(*alike, places)), alike
        runs.append(text)
    return [*(policy.packed for policy in places), b"".join(runs)]


def _pack(policy: Policy, amounts: Amounts, requests: int, places: dict[Policy, int]) -> bytes:
    place = places.setdefault(policy, len(places) + 1)
    cost, request_bytes, response_bytes = amounts
    if response_bytes is not None:
        return _RUN.pack(place, 0, 0, 0, response_bytes)
    return _RUN.pack(place, requests, cost, request_bytes, 0)


def decided_at(reply: bytes) -> float:
    """When, by the clock of Redis, in microseconds since the epoch."""
    return float(_NOW.unpack_from(reply)[0])


def answers(batch: Sequence[Run[Any]], reply: bytes) -> Iterator[Grant | Answer | None]:
    """The answers to the runs, in order: the grant itself where all of one is granted, None where it is to be asked for again."""
    now = decided_at(reply)
    at = _NOW.size
    for run in batch:
        if not reply[at + _FLAGS_AT]:
            yield Grant(run.policy, reply, at + _ANSWER.size, now)
            at += _ANSWER.size + STATE.size * run.policy.size
            continue
        granted, flags = _ANSWER.unpack_from(reply, at)
        at += _ANSWER.size
        if run.amounts.response_bytes is not None:
            granted = len(run.callers)  # a charge grants nothing, and nobody who waits for one is refused
        if flags & _UNDECIDED:
            yield None
        elif flags & _BROKEN:
            yield Answer(0, is_broken=True)
        else:
            # A copy: a remembered refusal must not keep the reply of a whole batch.
            end = at + _READING.size * run.policy.size
            read, at = partial(_readings, run.policy, reply[at:end]), end
            waits = _waits(run.policy, reply, at) if flags & _PARTIAL else ()
            at += _WAIT_BYTES * len(waits)
            yield Answer(granted, read, waits, bool(flags & _UNKNOWN))


def _states(policy: Policy, reply: bytes, at: int, now: float) -> Windows:
    states = STATE.iter_unpack(reply[at : at + STATE.size * len(policy.windows)])
    # Only vectors whose newest sub-window is the running one are answered so.
    return tuple(
        WindowState(window, int(older + newest), (sub * (oldest + 1) - now % sub) / 1e6 if older or newest else 0.0)
        for window, sub, (_, older, newest, oldest) in zip(policy.windows, policy.sub_microseconds, states, strict=True)
    )


def _readings(policy: Policy, data: bytes) -> Windows:
    readings = _READING.iter_unpack(data)
    return tuple(WindowState(window, int(used), reset / 1e6) for window, (used, reset) in zip(policy.windows, readings, strict=True))


def _waits(policy: Policy, reply: bytes, at: int) -> tuple[float, ...]:
    return tuple(wait / 1e6 for wait in struct.unpack_from(f"<{len(policy.windows)}d", reply, at))
