"""Child programs (API server, Valkey, operator, API workers) and waiting for them; called by the fixtures."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

Value = TypeVar("Value")
POLL_SECONDS = 0.02
# An API server lingers for a minute after SIGTERM while its clients are still connected.
STOP_GRACE_SECONDS = 5


class Program:
    """One program in a process group of its own, logging to a file; leaving the `with` block ends the whole group."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.command = [*dying_with_parent(), *command]
        self.log = log
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; what it writes is added to the log."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; a group that is gone already is fine."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                return

    def stop(self) -> None:
        """Ask it to end, and kill it when it doesn't within the grace."""
        self.send(signal.SIGTERM)
        if self.process is not None:
            try:
                self.process.wait(STOP_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.send(signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, as a lost machine would."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(STOP_GRACE_SECONDS)

    def has_ended(self) -> bool:
        """Whether it isn't running."""
        return self.process is None or self.process.poll() is not None

    def last_words(self) -> str:
        """The end of its log, for the message of a failure."""
        return self.log.read_text(errors="replace")[-3000:]

    def wait_until(self, is_ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until it is ready. Raises AssertionError with its last words when it ends first or takes too long."""
        try:
            eventually(lambda: self.has_ended() or is_ready(), seconds=seconds)
        except TimeoutError as ex:
            raise AssertionError(f"{self.command} was not ready in {seconds} s:\n{self.last_words()}") from ex
        assert not self.has_ended(), f"{self.command} ended:\n{self.last_words()}"


def dying_with_parent() -> list[str]:
    """A prefix that has the kernel kill the program when the test run is killed, where there is such a command.

    It does so when the thread ends that started the program: the main one, then.
    """
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def eventually(probe: Callable[[], Value], *, seconds: float) -> Value:
    """Ask until the answer is true, and return it. Raises TimeoutError, with the last answer, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {answer!r} after {seconds} s")
        time.sleep(POLL_SECONDS)
    return answer
