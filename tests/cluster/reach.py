"""What a pod can connect to, while policies say what it may; called by the tests."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.pods import restricted_pod
from tests.cluster.release import Release
from tests.kube.processes import eventually

SCRIPT = Path(__file__).with_name("knock.py")
# From a change of policies or pods until every node holds to it.
HELD_SECONDS = 30
Reached = dict[str, set[str]]


@dataclass(frozen=True)
class Reach:
    """Who is tried (a namespace, and a pod or what has one, with Python in it), and to where (host and port), by their names."""

    release: Release
    callers: Mapping[str, tuple[str, str]]
    targets: Mapping[str, str]

    def reached(self) -> Reached:
        """Names of the targets that each caller can connect to now."""
        with ThreadPoolExecutor() as pool:
            return dict(zip(self.callers, pool.map(self._reached_by, self.callers.values()), strict=True))

    def settled(self, expected: Reached) -> Reached:
        """The same once it is as expected, or at the latest when every node had time to hold to it."""
        with suppress(TimeoutError):
            eventually(lambda: self.reached() == expected, seconds=HELD_SECONDS)
        return self.reached()

    def _reached_by(self, caller: tuple[str, str]) -> set[str]:
        namespace, pod = caller
        command = ("--namespace", namespace, "exec", "--stdin", pod, "--", "python", "-", *self.targets.values())
        found = json.loads(self.release.anywhere(*command, stdin=SCRIPT.read_text()))
        return {name for name, address in self.targets.items() if address in found}


def start_stranger(release: Release) -> None:
    """Have a pod in the release's namespace that is none of it; it listens on port 8000."""
    pod = restricted_pod("stranger", release.api_image, ["python", "-m", "http.server", "8000"])
    release.kubectl("apply", "--filename", "-", stdin=json.dumps(pod))
    release.kubectl("wait", "pod/stranger", "--for=condition=Ready", "--timeout=50s")
