"""supervisord of a run: its configuration, its start, and the commands it takes; called by `run.py` and `commands/local.py`."""

import configparser
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

from tidegate.local.errors import LocalRunError
from tidegate.local.layout import Layout
from tidegate.local.leftovers import PROGRAM_MARK, end_leftovers, ending_with_parent, mark
from tidegate.local.programs import Program

RUNNING = "RUNNING"
STOP_SECONDS = 10
"""Longest a process may take to stop before it is killed."""
CALL_SECONDS = 2.0 * STOP_SECONDS
"""Deadline of a command to supervisord; the longest one waits for every process to stop."""
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """What supervisord says of a process.

    `is_wanted` is false when somebody asked for its stop; `ended_at` is when it last ended, in seconds since 1970, and 0 if it never did;
    `exit_status` is of that end, and 0 while it runs again.
    """

    name: str
    pid: int
    is_running: bool
    is_wanted: bool
    exit_status: int
    ended_at: int

    def has_crashed_since(self, before: "Process | None") -> bool:
        """Whether it ended since that look, the first if there was none, without being asked to; also when it was started again."""
        if not self.is_wanted:
            return False
        if before is None:
            return self.ended_at != 0 or not self.is_running
        # Two ends within a second look the same, and what could not be started has none.
        is_another = before.is_running and self.pid != before.pid
        never_ran = not self.is_running and not before.is_wanted
        return is_another or never_ran or self.ended_at != before.ended_at


class Supervision:
    """Commands to the supervisord of a run.

    Args:
        socket_path: Its unix socket.

    Raises:
        LocalRunError: From every method: supervisord does not answer, or refuses; the text says why.
    """

    def __init__(self, socket_path: Path) -> None:
        self._socket = socket_path

    def processes(self) -> tuple[Process, ...]:
        """Every process and its state."""
        return tuple(_process(info) for info in self._call("getAllProcessInfo"))

    def start(self, name: str) -> None:
        """Start a process; one that runs already is left alone."""
        if not self._find(name).is_running:
            self.end_orphans(name)
            self._call("startProcess", name)

    def kill(self, name: str) -> None:
        """SIGKILL a process and its children, as a power cut would; those of one that is dead already, too.

        Returns once supervisord knows: a start that follows would find it running, and leave it alone.
        """
        process = self._find(name)
        if process.is_running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self.end_orphans(name)
        deadline = time.monotonic() + CALL_SECONDS
        while self._find(name).is_running:
            if time.monotonic() > deadline:
                raise LocalRunError(f"{name} has not ended {CALL_SECONDS:.0f} s after its SIGKILL")
            time.sleep(POLL_SECONDS)

    def end_orphans(self, name: str) -> None:
        """End what a dead process left running: workers that lost their master would keep its port."""
        end_leftovers(self._socket.parent, name)

    def stop_all(self) -> None:
        """Stop every process, all at once."""
        self._call("stopAllProcesses")

    def _find(self, name: str) -> Process:
        return _process(self._call("getProcessInfo", name))

    def _call(self, method: str, *arguments: str) -> Any:
        # A connection of its own for each call: they are few, and supervisord may have been replaced in between.
        transport = _Transport(self._socket)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as ex:
            raise LocalRunError(f"supervisord refuses {method} {' '.join(arguments)}: {ex.faultString}") from ex
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as ex:
            raise LocalRunError(f"nothing runs in {self._socket.parent}: start it with `tidegate up`") from ex


class _Connection(UnixStreamHTTPConnection):  # type: ignore[misc]  # no types are published
    """supervisord's own connection class, with the deadline that it lacks."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CALL_SECONDS)
        self.sock.connect(self.socketfile)


class _Transport(SupervisorTransport):  # type: ignore[misc]  # no types are published
    def __init__(self, socket_path: Path) -> None:
        super().__init__(serverurl=f"unix://{socket_path}")
        self.connection = _Connection("localhost")
        self.connection.socketfile = str(socket_path)
        self.headers = {"User-Agent": "tidegate", "Content-Type": "text/xml", "Accept": "text/xml"}


def start_supervisord(layout: Layout, programs: Sequence[Program]) -> subprocess.Popen[bytes]:
    """Write supervisord's configuration and start it; it starts the programs.

    A session of its own keeps a Ctrl-C of the terminal away from it: the run stops it in order. If the run cannot, for it was killed,
    supervisord hears of that and stops everything itself.
    """
    path = layout.state / "supervisord.conf"
    with path.open("w") as file:
        configuration(layout, programs).write(file)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(path)],
        env=inherited | mark(layout.state),
        cwd=layout.state,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=ending_with_parent(),
    )


def configuration(layout: Layout, programs: Sequence[Program]) -> configparser.RawConfigParser:
    """supervisord's configuration: a private socket, and one section a program, none of which is restarted by itself.

    Its paths are relative to the state directory, where supervisord runs.
    """
    parser = configparser.RawConfigParser()
    parser["unix_http_server"] = {"file": layout.supervisor_socket.name, "chmod": "0700"}
    parser["supervisord"] = {
        "logfile": _relative(layout, layout.log("supervisord")),
        "pidfile": "supervisord.pid",
        "umask": "077",
    }
    parser["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"}
    for program in programs:
        parser[f"program:{program.name}"] = _section(layout, program)
    return parser


def _section(layout: Layout, program: Program) -> dict[str, str]:
    settings = (f"{name}={value}" for name, value in {**program.environment, PROGRAM_MARK: program.name}.items())
    return {
        # Through env(1): supervisord's own `environment` cannot hold every character.
        "command": shlex.join(["/usr/bin/env", *settings, *program.command]).replace("%", "%%"),
        "autorestart": "false",
        # A process counts as running at once: whether it is ready is asked of itself.
        "startsecs": "0",
        "startretries": "0",
        "stopwaitsecs": str(STOP_SECONDS),
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": _relative(layout, layout.log(program.name)),
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": "1",
    }


def _relative(layout: Layout, path: Path) -> str:
    # supervisord expands some paths twice, so a per-cent sign in the directory's name cannot be written down.
    return str(path.relative_to(layout.state))


def _process(info: dict[str, Any]) -> Process:
    state = str(info["statename"])
    return Process(
        name=str(info["name"]),
        pid=int(info["pid"]),
        is_running=state in (RUNNING, "STARTING", "STOPPING"),
        is_wanted=state not in ("STOPPED", "STOPPING"),
        exit_status=int(info["exitstatus"]),
        ended_at=int(info["stop"]),
    )
