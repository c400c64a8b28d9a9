"""Processes that outlive whoever should end them: kept from it, or found by a mark and ended; called by `run.py` and `supervision.py`."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tidegate.local.errors import LocalRunError

MARK = "LOCAL_RUN_OF_TIDEGATE"
"""Variable that every process of a run inherits; its value is the state directory."""
PROGRAM_MARK = "LOCAL_RUN_PROGRAM"
"""Variable that the processes of one program of a run inherit; its value is the program's name."""
END_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def mark(state: Path) -> dict[str, str]:
    """What a process of the run in directory `state` has in its environment."""
    return {MARK: str(state)}


def ending_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes its program, to get a SIGTERM when we die, by SIGKILL too; None where the system cannot do that.

    The system means the thread that starts the child: call from the main one.
    """
    if sys.platform != "linux":
        return None
    # Found before the fork: after it a child does as little as it can.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
        if os.getppid() != parent:
            os._exit(1)  # it died before the signal was asked for

    return arm


def find_leftovers(state: Path, program: str = "") -> list[int]:
    """Ids of the processes that belong to the run in `state`, or to one program of it; always empty where there is no /proc."""
    wanted = {os.fsencode(f"{MARK}={state}")} | ({os.fsencode(f"{PROGRAM_MARK}={program}")} if program else set())
    return [pid for pid in _process_ids() if pid != os.getpid() and wanted <= set(_environment(pid))]


def end_leftovers(state: Path, program: str = "") -> int:
    """Kill what belongs to the run in `state`, or to one program of it; returns how many processes there were.

    Raises:
        LocalRunError: One does not end.
    """
    found = find_leftovers(state, program)
    deadline = time.monotonic() + END_SECONDS
    while remaining := find_leftovers(state, program):
        for pid in remaining:
            # It may end between the look and the signal.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LocalRunError(f"these processes do not end: {', '.join(map(str, remaining))}")
        time.sleep(0.02)
    return len(found)


def _process_ids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []  # ended meanwhile, or another user's
