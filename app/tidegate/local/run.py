"""One local run from its first file to its last process; called by `up.py` and `tour.py`."""

import os
import subprocess
import time
from collections import deque
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import Self

from tidegate.local.client import Client
from tidegate.local.errors import LocalRunError
from tidegate.local.keys import Keys
from tidegate.local.layout import Layout
from tidegate.local.leftovers import end_leftovers
from tidegate.local.lock import StateLock
from tidegate.local.ports import check_ports
from tidegate.local.programs import OPERATOR, Capacity, api_name, programs, redis_name, write_configuration
from tidegate.local.supervision import STOP_SECONDS, Process, Supervision, start_supervisord

READY_SECONDS = 30.0
TAIL_LINES = 20
POLL_SECONDS = 0.05
READY_ANSWERS = 10
"""In a row and from the own region: before its first health check has passed, an edge spreads requests over all regions."""


class Run:
    """The servers of two regions, the store and the operator; a context manager that leaves no process and no socket behind.

    Args:
        layout: Where everything lives.
        capacity: How much each region takes.

    Raises:
        LocalRunError: From most methods: it cannot start or go on; the text says why and what to do.
    """

    def __init__(self, layout: Layout, capacity: Capacity = Capacity()) -> None:  # noqa: B008 - frozen
        self.layout = layout
        self.capacity = capacity
        self.supervision = Supervision(layout.supervisor_socket)
        self.cleaned_up = 0
        self._lock = StateLock(layout.state)
        self._supervisord: subprocess.Popen[bytes] | None = None
        self._seen: dict[str, Process] = {}
        self._operator_log_read = 0

    def __enter__(self) -> Self:
        _check_tiers(self.layout)
        self.layout.make_directories()
        self._lock.acquire()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        self.cleaned_up = end_leftovers(self.layout.state)
        self._remove_sockets()
        check_ports(self.layout)
        self.keys = Keys(self.layout.keys)
        write_configuration(self.layout)
        started = programs(self.layout, self.keys, self.capacity)
        for name in ("supervisord", *(program.name for program in started)):
            for log in self.layout.logs.glob(f"{name}.log*"):
                log.unlink()
        self._supervisord = start_supervisord(self.layout, started)

    def stop(self) -> None:
        """Stop every process, remove every socket, and let the next run in."""
        if self._supervisord is not None:
            _end_supervisord(self._supervisord, self.supervision)
            self._supervisord = None
            end_leftovers(self.layout.state)
        self._remove_sockets()
        self._lock.release()

    def wait_until_ready(self, stop: Event) -> None:
        """Return once every API and every edge says that it is ready, or when `stop` is set."""
        deadline = time.monotonic() + READY_SECONDS
        while (missing := self._missing()) and not stop.wait(POLL_SECONDS):
            for process in self.take_crashed():
                raise LocalRunError(self.crash_report(process))
            if time.monotonic() > deadline:
                raise LocalRunError(f"not ready after {READY_SECONDS:.0f} s: {missing}. The operator's last lines:\n{self.tail(OPERATOR)}")

    def take_crashed(self) -> list[Process]:
        """Processes that ended without being asked to, each reported once, also when it was started again since the last look.

        Raises:
            LocalRunError: supervisord itself is gone.
        """
        if self._supervisord is None or self._supervisord.poll() is not None:
            raise LocalRunError(f"supervisord has ended, and with it the run; its last lines:\n{self.tail('supervisord')}")
        try:
            processes = self.supervision.processes()
        except LocalRunError:
            return []  # still starting, or just ending: the next look tells
        crashed = [process for process in processes if process.has_crashed_since(self._seen.get(process.name))]
        self._seen = {process.name: process for process in processes}
        return crashed

    def crash_report(self, process: Process) -> str:
        """What a person needs to know of a process that ended: its name, how it ended, its last lines."""
        if process.is_running:
            how = "ended and was started again"
        else:
            how = "was killed by a signal" if process.exit_status < 0 else f"ended with status {process.exit_status}"
        return f"{process.name} {how}. Its last lines ({self.layout.log(process.name)}):\n{self.tail(process.name)}"

    def tail(self, program: str) -> str:
        """The last lines of a process's log, indented."""
        try:
            with self.layout.log(program).open(errors="replace") as file:
                return "".join(f"  | {line}" for line in deque(file, TAIL_LINES)).rstrip() or "  | (none)"
        except OSError:
            return "  | (none)"

    def take_refusals(self) -> list[str]:
        """What the operator has refused since the last look, a sentence each."""
        try:
            with self.layout.log(OPERATOR).open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._operator_log_read:
                    self._operator_log_read = 0  # supervisord began another file
                file.seek(self._operator_log_read)
                lines = [line for line in file if line.endswith(b"\n")]
        except OSError:
            return []
        self._operator_log_read += sum(map(len, lines))
        return [line.decode(errors="replace").partition("]")[2].strip() for line in lines if b"[error" in line]

    def _missing(self) -> str:
        for region in self.layout.regions:
            for name, port in ((f"API of {region.name}", region.api_port), (f"edge of {region.name}", region.edge_port)):
                if problem := _readiness_problem(port, region.name):
                    return f"{name}: {problem}"
        return ""

    def _remove_sockets(self) -> None:
        for path in self.layout.sockets():
            path.unlink(missing_ok=True)


def kill_region(supervision: Supervision, region: str) -> None:
    """SIGKILL a region's API and Redis together; its edge stays, as a city's network does when a data centre burns."""
    for name in (api_name(region), redis_name(region)):
        supervision.kill(name)


def start_region(supervision: Supervision, region: str) -> None:
    """Start what `kill_region` killed; the Redis comes back empty."""
    for name in (redis_name(region), api_name(region)):
        supervision.start(name)


def _end_supervisord(supervisord: subprocess.Popen[bytes], supervision: Supervision) -> None:
    with suppress(LocalRunError):  # it may not listen yet, or be dead: what it leaves is ended by its mark
        supervision.stop_all()
    supervisord.terminate()
    try:
        supervisord.wait(2 * STOP_SECONDS)
    except subprocess.TimeoutExpired:
        supervisord.kill()
        supervisord.wait()


def _readiness_problem(port: int, region: str) -> str:
    try:
        with Client(port, timeout_seconds=1.0) as client:
            answers = [client.get("/readyz") for _ in range(READY_ANSWERS)]
    except OSError as ex:
        return f"does not answer ({ex})"
    unready = next((answer.body.decode(errors="replace") for answer in answers if answer.status != 200), "")
    strangers = {answer.region for answer in answers} - {region}
    return unready or (f"answered by {strangers.pop() or 'nobody'}" if strangers else "")


def _check_tiers(layout: Layout) -> None:
    if not layout.tiers.is_dir():
        raise LocalRunError(f"no directory {layout.tiers} with tier manifests: run from the repository, or name one with --tiers")
    if not any(path.suffix in (".yaml", ".yml") for path in layout.tiers.iterdir()):
        raise LocalRunError(f"no tier manifest (*.yaml) in {layout.tiers}: put one there, or name another directory with --tiers")
