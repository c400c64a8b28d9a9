"""Requests from inside the cluster while a test does something to it; called by the tests."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from tests.cluster.pods import restricted_pod
from tests.cluster.release import Release
from tests.kube.tiers import Json

SCRIPT = Path(__file__).with_name("load.py")
RATE = 40
NAME = "client"


@dataclass(frozen=True)
class Outcome:
    """One request: when it was sent (seconds since the epoch), which region answered, and what was wrong (empty when nothing)."""

    at: float
    region: str
    problem: str


@dataclass
class Traffic:
    """What a client met; complete once its block is left."""

    outcomes: list[Outcome] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Remember this moment."""
        self.marks[name] = time.time()

    def failed(self, *, since: str = "", until: str = "") -> list[Outcome]:
        """Requests that went wrong, of those sent between two marks."""
        return [outcome for outcome in self.between(since, until) if outcome.problem]

    def regions(self, *, since: str = "", until: str = "") -> Counter[str]:
        """How many requests each region answered."""
        return Counter(outcome.region for outcome in self.between(since, until) if not outcome.problem)

    def between(self, since: str = "", until: str = "") -> list[Outcome]:
        """Requests sent between two marks; all of them where there is none."""
        first, last = self.marks.get(since, 0.0), self.marks.get(until, float("inf"))
        return [outcome for outcome in self.outcomes if first <= outcome.at <= last]

    @property
    def verdict(self) -> str:
        """Failed requests of all, for the figures."""
        return f"{len(self.failed())} of {len(self.outcomes)}"


@contextmanager
def traffic(release: Release, token: str, *, path: str = "/v1/credits", zone: str = "", rate: float = RATE) -> Iterator[Traffic]:
    """Send requests through the release's Service from a pod, of a zone if one is named, until the block ends."""
    name = f"{NAME}-{zone}" if zone else NAME
    url = f"http://{release.service}{path}"
    release.kubectl("delete", "pod", name, "--ignore-not-found", "--grace-period=1")
    release.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump_all(client_objects(release, name, [url, token, str(rate)], zone)))
    release.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=50s")
    met = Traffic()
    try:
        yield met
    finally:
        release.kubectl("exec", name, "--", "sh", "-c", "kill -TERM 1")
        release.kubectl("wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
        met.outcomes += [Outcome(*outcome) for outcome in json.loads(release.kubectl("logs", name))]
        release.kubectl("delete", "pod", name, "--grace-period=1")


def client_objects(release: Release, name: str, asked: Sequence[str], zone: str) -> list[Json]:
    """The client: a pod of the API's image, which has Python and an HTTP client, and nothing of its own but the script."""
    script = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, "data": {SCRIPT.name: SCRIPT.read_text()}}
    pod = restricted_pod(name, release.api_image, ["python", f"/load/{SCRIPT.name}"])
    (container,) = pod["spec"]["containers"]
    container |= {
        "env": [{"name": key, "value": value} for key, value in zip(("URL", "TOKEN", "RATE"), asked, strict=True)],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/warm"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "load", "mountPath": "/load"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod["spec"] |= {
        "nodeSelector": {"topology.kubernetes.io/zone": zone} if zone else {},
        "volumes": [{"name": "load", "configMap": {"name": "load"}}, {"name": "tmp", "emptyDir": {}}],
    }
    return [script, pod]
