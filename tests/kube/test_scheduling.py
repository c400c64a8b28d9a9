"""Where members of the store go: the pods of the chart, a real scheduler, and nodes that are only objects."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.kube.chart import render
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.members import named
from tests.kube.processes import Program, eventually
from tests.kube.tiers import Json
from tests.ports import free_port

Place = Callable[..., Mapping[str, str]]
ZONE = "topology.kubernetes.io/zone"
ETCD = "store.type=Etcd"
ZONES = "store.etcd.failureDomains={eu-1,eu-2,eu-3}"
PENDING = "pending"


@pytest.fixture(scope="module", autouse=True)
def scheduler(cluster: ControlPlane, built: Callable[[str], Path]) -> Iterator[Program]:
    """The scheduler of the API server that the tests share; nobody else's pods wait for one."""
    flags = (
        "--kubeconfig",
        str(cluster.admin_kubeconfig),
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={free_port()}",
    )
    with Program([str(built("kube-scheduler")), *flags], cluster.folder / "kube-scheduler.log") as running:
        yield running


@pytest.fixture
def place(kubectl: Kubectl, built: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Place]:
    """Makes nodes, and then the members that values ask for; gives each member's node once all were tried."""
    namespace = f"members-{request.session.items.index(request.node)}"
    made: list[str] = []

    def run(nodes: Mapping[str, str], *values: str) -> Mapping[str, str]:
        for name, zone in nodes.items():
            make_node(kubectl, name, zone)
            made.append(name)
        kubectl("create", "namespace", namespace)
        pods = members(render(built("helm"), ETCD, *values))
        for pod in pods:
            kubectl("create", "--namespace", namespace, "--filename", "-", stdin=json.dumps(pod))
        eventually(lambda: len(decided(kubectl, namespace)) == len(pods), seconds=20)
        return decided(kubectl, namespace)

    yield run
    kubectl("delete", "nodes", *made)


def make_node(kubectl: Kubectl, name: str, zone: str) -> None:
    """A node that is ready as far as the scheduler can see. A new one is tainted until a controller, of which there is none, says so."""
    labels = {"kubernetes.io/hostname": name, ZONE: zone}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    room = {"cpu": "4", "memory": "8Gi", "pods": "10", "ephemeral-storage": "20Gi"}
    status = {"status": {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}}
    kubectl("create", "--filename", "-", stdin=json.dumps(node))
    kubectl("patch", "node", name, "--subresource", "status", "--patch", json.dumps(status))
    kubectl("patch", "node", name, "--patch", json.dumps({"spec": {"taints": None}}))


def members(documents: list[Json]) -> list[Json]:
    """The pods that a controller would make of the StatefulSet; any volume may be a claim's."""
    spec = named(documents, "StatefulSet", "tidegate-store")["spec"]
    template = spec["template"]
    pod = {**template["spec"], "volumes": [*template["spec"]["volumes"], {"name": "data", "emptyDir": {}}]}
    labels = template["metadata"]["labels"]
    names = [f"tidegate-store-{ordinal}" for ordinal in range(spec["replicas"])]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": pod} for name in names]


def decided(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    """The node of each pod that the scheduler has looked at, or that it found none."""
    found = {}
    for pod in json.loads(kubectl("get", "pods", "--namespace", namespace, "--output", "json"))["items"]:
        conditions = {entry["type"]: entry for entry in pod.get("status", {}).get("conditions", [])}
        if "PodScheduled" in conditions:
            found[pod["metadata"]["name"]] = pod["spec"].get("nodeName", PENDING)
    return found


def six_nodes() -> dict[str, str]:
    """Two in each of three zones."""
    return {f"node-{zone}-{number}": f"eu-{zone}" for zone in (1, 2, 3) for number in (1, 2)}


def test_each_zone_gets_one_of_three_members(place: Place) -> None:
    nodes = {**six_nodes(), "elsewhere": "us-1"}

    placed = place(nodes, ZONES)

    assert sorted(nodes[node] for node in placed.values()) == ["eu-1", "eu-2", "eu-3"]


def test_no_zone_gets_a_majority_of_five_members_and_no_node_two(place: Place) -> None:
    nodes = six_nodes()

    placed = place(nodes, ZONES, "store.etcd.replicas=5")

    assert len(set(placed.values())) == 5
    assert sorted(Counter(nodes[node] for node in placed.values()).values()) == [1, 2, 2]


def test_a_zone_without_nodes_leaves_its_member_pending(place: Place) -> None:
    """In another zone it would make a majority."""
    nodes = {name: zone for name, zone in six_nodes().items() if zone != "eu-3"}

    placed = place(nodes, ZONES)

    assert sorted(nodes.get(node, node) for node in placed.values()) == ["eu-1", "eu-2", PENDING]


def test_without_zones_no_node_gets_two_members(place: Place) -> None:
    """Two nodes take two members; on either of them the third would make a majority."""
    placed = place({"left": "", "right": ""})

    assert sorted(placed.values()) == ["left", PENDING, "right"]
