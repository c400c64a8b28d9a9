"""`tidegate up` as a person starts it: a process of its own on free ports, its output read line by line."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest
from tests.conftest import TIDEGATE

from tidegate.local.keys import Grant, Keys
from tidegate.local.leftovers import end_leftovers
from tidegate.local.supervision import Supervision

ROOT = Path(__file__).parents[2]
START_SECONDS = 45.0


class LocalRun:
    """A running `tidegate up` in directory `state`; extra arguments go to its command line."""

    def __init__(self, state: Path, tiers: Path, *arguments: str) -> None:
        self.state = state
        self.tiers = tiers
        self.output = ""
        self._lines: Queue[str] = Queue()
        command = [str(TIDEGATE), "up", "--port", "0", "--tiers", str(tiers), "--state", str(state), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = Thread(target=self._read)
        self._reader.start()

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """Everything printed, once it holds `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            may_come = self._reader.is_alive() or not self._lines.empty()
            if not may_come or time.monotonic() > deadline:
                pytest.fail(f"{text!r} was not printed within {seconds} s, but:\n{self.output}")
            with suppress(Empty):
                self.output += self._lines.get(timeout=0.1)
        return self.output

    def ports(self, kind: str) -> list[int]:
        """Ports of the regions' `edge` or `API`, Frankfurt's first."""
        return [int(port) for port in re.findall(rf"{kind} http://127\.0\.0\.1:(\d+)", self.wait_for("Ctrl-C stops everything"))]

    def token(self, tier: str = "enterprise") -> str:
        return Keys(self.state / "keys").mint(Grant(tier))

    @property
    def supervision(self) -> Supervision:
        return Supervision(self.state / "supervisor.sock")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TIDEGATE), *arguments, "--state", str(self.state)], capture_output=True, text=True, timeout=60, check=False
        )

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(40)
        self._join()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end_leftovers(self.state)
        self._join()

    def _join(self) -> None:
        self._reader.join(10)
        while not self._lines.empty():
            self.output += self._lines.get()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)


@pytest.fixture(scope="session")
def tiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample tiers, with limits that no test reaches by being fast."""
    copied = Path(shutil.copytree(ROOT / "k8s" / "tiers", tmp_path_factory.mktemp("manifests") / "tiers"))
    for manifest in copied.glob("*.yaml"):
        manifest.write_text(re.sub(r"\blimit: (\d+)", r"limit: \g<1>000", manifest.read_text()))
    return copied


@pytest.fixture(scope="session")
def shared_run(tiers: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRun]:
    run = LocalRun(tmp_path_factory.mktemp("run") / ".tidegate", tiers)
    try:
        run.wait_for("Ctrl-C stops everything")
        yield run
    finally:
        run.close()


@pytest.fixture
def start_run(tiers: Path, tmp_path: Path) -> Iterator[Callable[..., LocalRun]]:
    """Starts runs in one and the same directory; whatever is left of them at the end is killed."""
    runs: list[LocalRun] = []

    def start(*arguments: str) -> LocalRun:
        runs.append(LocalRun(tmp_path / ".tidegate", tiers, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.close()
