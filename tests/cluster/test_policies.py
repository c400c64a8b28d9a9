"""Who reaches what while the network holds to the policies of chart and operator; and that it is they that refuse."""

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
from tests.cluster.control_plane import SERVER
from tests.cluster.notes import terminal
from tests.cluster.reach import Reach, Reached, start_stranger
from tests.cluster.release import Release
from tests.kube.chart import ROOT
from tests.kube.control_plane import ControlPlane
from tests.kube.processes import eventually
from tests.kube.tiers import limited

TIER = "walled"
MONITORING = '[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]'
OPEN = {"API of dublin", "names", "API server", "stranger"}
ALLOWED: Reached = {
    "stranger": OPEN,
    "elsewhere": OPEN,
    "monitoring": OPEN | {"metrics"},
    "worker of frankfurt": {"names", "Redis of frankfurt", "shared lane of frankfurt", "dedicated lane of frankfurt", "store"},
    # Its own port is nobody else's.
    "operator": {"names", "API server", "Redis of frankfurt", "Redis of dublin", "operator"},
    "Redis of frankfurt": set(),
}


@pytest.fixture(scope="module")
def reach(release: Release, make_release: Callable[[str], Release], cluster: ControlPlane) -> Iterator[Reach]:
    """Strangers in three namespaces and pods of the release try everything that listens; a tier has lanes of its own."""
    strangers = {"stranger": release, "elsewhere": make_release("elsewhere"), "monitoring": make_release("monitoring")}
    for place in strangers.values():
        start_stranger(place)
    release.tiers.create(TIER, {**limited(1000), "cache": {"lane": "Dedicated", "memory": "16Mi", "ttl": "60s"}})
    release.kubectl("wait", f"rlt/{TIER}", "--for=condition=LaneReady", "--timeout=50s")
    callers = {name: (place.namespace, "stranger") for name, place in strangers.items()}
    callers |= {name: (release.namespace, pod) for name, pod in pods_with_python(own=cluster is SERVER).items()}
    yield Reach(release, callers, targets(release))
    release.tiers.delete(TIER)
    for place in strangers.values():
        place.kubectl("delete", "pod", "stranger", "--wait=false")


def pods_with_python(*, own: bool) -> dict[str, str]:
    """Pods of the release that can try something: only where the suite makes the images has a Redis Python beside it."""
    pods = {"worker of frankfurt": "deployment/tidegate-api-frankfurt", "operator": "deployment/tidegate-operator"}
    return pods | ({"Redis of frankfurt": "statefulset/tidegate-redis-frankfurt"} if own else {})


def targets(release: Release) -> dict[str, str]:
    """The address of everything that listens; nobody has to ask for a name first."""
    (worker, *_) = [pod for pod in release.pods("api") if pod["metadata"]["labels"]["tidegate.dev/region"] == "dublin"]
    (operator,) = release.pods("operator")
    lane = f"--selector=tidegate.dev/tier={TIER},tidegate.dev/region="
    found = {
        # Not that of frankfurt as well: kube-router takes what a pod lets in for what the others under its policy may ask, too.
        "API of dublin": service(release, "tidegate-api-dublin", port=80),
        "store": service(release, "tidegate-store"),
        "metrics": f"{worker['status']['podIP']}:9100",
        "operator": f"{operator['status']['podIP']}:8080",
        "names": service(release, "kube-dns", "--namespace=kube-system", port=53),
        "API server": service(release, "kubernetes", "--namespace=default", port=443),
        "stranger": f"{release.kubectl('get', 'pod', 'stranger', '--output=jsonpath={.status.podIP}')}:8000",
    }
    for region in ("frankfurt", "dublin"):
        found[f"Redis of {region}"] = service(release, f"tidegate-redis-{region}")
        found[f"shared lane of {region}"] = service(release, f"tidegate-cache-{region}")
        found[f"dedicated lane of {region}"] = service(release, lane + region)
    return found


def service(release: Release, *which: str, port: int = 6379) -> str:
    """The address of a Service."""
    return f"{release.kubectl('get', 'service', *which, '--output=jsonpath={..clusterIP}')}:{port}"


def allowed(reach: Reach) -> Reached:
    """What each of the callers may reach."""
    return {caller: ALLOWED[caller] for caller in reach.callers}


def test_each_pod_reaches_what_it_needs_alone_and_strangers_no_server(reach: Reach) -> None:
    """Neither a stranger in the namespace nor one of another; a worker no other region's servers, and no API server."""
    assert reach.settled(allowed(reach)) == allowed(reach)


def test_whoever_tries_it_as_documented_is_refused(reach: Reach) -> None:
    """One command shows whether the network of a cluster holds to the policies."""
    text = (ROOT / "docs/deploy/one-cluster.md").read_text()
    command = re.findall(r"^kubectl run stranger(?:.*\\\n)*.*$", text, re.MULTILINE)

    def says_refused() -> bool:
        tried = subprocess.run(
            ["bash", "-c", *command], capture_output=True, text=True, timeout=60, env=terminal(reach.release), check=False
        )
        return "ConnectionRefusedError" in tried.stdout + tried.stderr

    # Of a pod that ends before kubectl is attached, nothing is shown.
    eventually(says_refused, seconds=120)


def test_without_policies_everybody_reaches_everything_and_with_them_again_not(reach: Reach) -> None:
    """So it was no other thing that refused."""
    everything = {caller: set(reach.targets) for caller in reach.callers}
    release = reach.release
    release.helm.upgrade("--reset-then-reuse-values", "--set", "networkPolicy.enabled=false")
    release.kubectl("delete", "networkpolicies", f"--selector=tidegate.dev/tier={TIER}")
    without = reach.settled(everything)
    release.helm.upgrade("--reset-then-reuse-values", "--set", "networkPolicy.enabled=true")
    # The operator looks after the lanes' policies every few minutes, and when it starts.
    release.kubectl("rollout", "restart", "deployment/tidegate-operator")
    release.wait_until_ready()
    again = Reach(release, reach.callers, targets(release))

    assert without == everything
    assert again.settled(allowed(reach)) == allowed(reach)


def test_an_api_that_is_for_one_namespace_is_reached_from_there_and_by_its_own_test(reach: Reach) -> None:
    """The test of the release is locked out by none of its values."""
    release = reach.release
    release.helm.upgrade("--reset-then-reuse-values", "--set-json", f"networkPolicy.ingressFrom={MONITORING}")
    wanted = allowed(reach) | {caller: OPEN - {"API of dublin"} for caller in ("stranger", "elsewhere")}

    try:
        found = Reach(release, reach.callers, targets(release)).settled(wanted)
        tested = release.helm.test()
    finally:
        release.helm.upgrade("--reset-then-reuse-values", "--set-json", "networkPolicy.ingressFrom=[]")

    assert found == wanted
    assert "http://tidegate:80 is ready" in tested
