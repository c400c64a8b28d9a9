"""Whether what customers saw of one key can be: a checker of histories that knows nothing of how it is done; called by `test_load.py`.

A key is a register that is written once. A history is linearizable (Herlihy and Wing) if each operation can be given an instant between
its call and its answer, so that one after the other they make sense. The search is that of Wing and Gong, with the memory of Lowe.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Saw(Enum):
    """What an operation was answered."""

    ITS_OWN = auto()
    """It is the one that wrote the value."""
    WRITTEN = auto()
    """The value had been written."""
    NOTHING = auto()
    """Nothing was written yet."""
    NO_ANSWER = auto()
    """It may have written some value, may yet do so, or may never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One attempt: when it was made and answered, on one clock, and what it saw; `value` of the register, if it saw one."""

    called: float
    answered: float
    saw: Saw
    value: bytes = b""


State = bytes | None


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Whether some order explains `history`."""
    values = {operation.value for operation in history if operation.saw in (Saw.ITS_OWN, Saw.WRITTEN)}
    waiting: list[tuple[frozenset[int], State]] = [(frozenset(range(len(history))), None)]
    seen = set(waiting)
    while waiting:
        left, state = waiting.pop()
        if all(history[place].saw is Saw.NO_ANSWER for place in left):
            return True
        # Nobody comes after an operation that had been answered before it was called.
        until = min(_end(history[place]) for place in left)
        for place in left:
            if history[place].called <= until:
                reached = {(left - {place}, after) for after in _after(state, history[place], values)} - seen
                seen |= reached
                waiting.extend(reached)
    return False


def _end(operation: Operation) -> float:
    return math.inf if operation.saw is Saw.NO_ANSWER else operation.answered


def _after(state: State, operation: Operation, values: set[bytes]) -> Iterator[State]:
    """The states in which the operation may leave the register, if it can have seen `state` at all."""
    match operation.saw:
        case Saw.ITS_OWN if state is None:
            yield operation.value
        case Saw.WRITTEN if state == operation.value:
            yield state
        case Saw.NOTHING if state is None:
            yield state
        case Saw.NO_ANSWER if state is None:
            yield from values
