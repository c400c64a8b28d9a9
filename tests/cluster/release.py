"""An installation of the chart with real pods, and how a test meets it; called by the fixtures and the tests."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.images import chart_values, reference
from tests.kube.chart import RELEASE, Helm
from tests.kube.control_plane import Kubectl
from tests.kube.processes import Program, eventually
from tests.kube.tiers import Json, TierClient, condition, limited
from tests.ports import free_port

from tidegate.local.client import Client
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys

STORED = Path(__file__).with_name("stored.py")
READY_SECONDS, ENFORCED_SECONDS = 180, 20
TRUSTED = ("--set", f"tokens.issuer={ISSUER}", "--set", f"tokens.audience={AUDIENCE}")


@dataclass(frozen=True)
class Release:
    """One installation in a namespace that enforces restricted pod security."""

    helm: Helm
    anywhere: Kubectl
    program: Path
    keys: Keys
    tiers: TierClient
    workspace: Path

    @property
    def namespace(self) -> str:
        """Where it is installed."""
        return self.helm.namespace

    @property
    def service(self) -> str:
        """The name, in the cluster's DNS, of the Service of all regions."""
        return f"{RELEASE}.{self.namespace}"

    @property
    def api_image(self) -> str:
        """The image of its API pods."""
        return reference(chart_values()["api"]["image"])

    @property
    def trusted(self) -> tuple[str, ...]:
        """Options by which the tests' own tokens are accepted."""
        return (*TRUSTED, "--set-file", f"tokens.jwks={self.keys.token_keys}")

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, seconds: float = 60) -> str:
        """Run kubectl in the namespace."""
        return self.anywhere("--namespace", self.namespace, *arguments, stdin=stdin, check=check, seconds=seconds)

    def make_namespace(self) -> None:
        """Make the namespace, which refuses every pod that isn't restricted."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}}
        self.anywhere("apply", "--filename", "-", stdin=json.dumps(namespace))

    def wait_until_ready(self) -> None:
        """Wait until each of its workloads has all pods ready, in their newest form."""
        for workload in self.kubectl("get", "deployments,statefulsets", "--output", "name").split():
            self.kubectl("rollout", "status", workload, f"--timeout={READY_SECONDS}s", seconds=READY_SECONDS + 10)

    def objects(self, kind: str, *selection: str) -> list[Json]:
        """Objects of a kind, all or those that options of kubectl select."""
        return list(json.loads(self.kubectl("get", kind, *selection, "--output", "json"))["items"])

    def pods(self, component: str) -> list[Json]:
        """The pods of a component that aren't ending."""
        found = self.objects("pods", "--selector", f"app.kubernetes.io/component={component}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def used(self, region: str, tier: str, *, tenant: str) -> list[int]:
        """What a customer has used of each window of a tier in a region, looked at as docs/usage.md says.

        Nothing while Redis is not reached.
        """
        template = f'go-template={{{{index .data "{region}.support.url" | base64decode}}}}'
        url = self.kubectl("get", "secret", f"{RELEASE}-redis", "--output", template)
        look = f"tidegate usage --tenant {tenant} --client demo --tier {tier}"
        command = f"read -r TIDEGATE_REDIS_URL; export TIDEGATE_REDIS_URL; exec {look}"
        shown = self.kubectl(
            "exec", "--stdin", f"deployment/{RELEASE}-api-{region}", "--", "sh", "-c", command, stdin=f"{url}\n", check=False
        )
        return [int(line.split()[3]) for line in shown.splitlines()[2:]]

    def stored(self) -> list[list[str]]:
        """What the Redis of each region holds of the tiers: a number that each write changes, and the names."""
        regions = (f"deployment/{RELEASE}-api-{region}" for region in ("frankfurt", "dublin"))
        return [self.kubectl("exec", "--stdin", pod, "--", "python", "-", stdin=STORED.read_text()).split() for pod in regions]

    def token(self, tier: str, *, tenant: str = "acme") -> str:
        """A token of a customer that names a tier, valid for 15 minutes."""
        return self.keys.mint(Grant(tier, tenant=tenant))

    def seconds_until_enforced(self, tier: str, limit: int) -> float:
        """Edit a tier. Returns how long it takes until the status says that every region enforces the limit."""
        self.tiers.edit(tier, **limited(limit))
        accepted = time.monotonic()
        eventually(lambda: self.tiers.is_ready(tier), seconds=ENFORCED_SECONDS)
        return time.monotonic() - accepted

    @contextmanager
    def forwarded(self, region: str) -> Iterator[int]:
        """A port that kubectl forwards to a pod of one region which stays, ready if any is: of a Service it may take one that ends."""
        pods = [pod for pod in self.pods("api") if pod["metadata"]["labels"]["tidegate.dev/region"] == region]
        port, pod = free_port(), max(pods, key=is_ready)["metadata"]["name"]
        command = [str(self.program), "--kubeconfig", str(self.helm.cluster.admin_kubeconfig), "--namespace", self.namespace]
        command += ["port-forward", f"pod/{pod}", f"{port}:8000"]
        log = self.workspace / f"forward-{port}.log"
        with Program(command, log) as forwarding:
            forwarding.wait_until(lambda: "Forwarding" in forwarding.last_words(), seconds=20)
            yield port

    @contextmanager
    def region(self, name: str, tier: str, *, tenant: str = "acme") -> Iterator[Client]:
        """A client of one pod of a region."""
        with self.forwarded(name) as port, Client(port, self.token(tier, tenant=tenant)) as client:
            yield client


def is_ready(pod: Json) -> bool:
    """Whether a pod says that it is."""
    return bool(condition(pod, "Ready").get("status") == "True")
