"""Starts and stops the cluster of three nodes; called by the fixtures, and as a script by the Makefile.

Everything of it is in one tree of cgroups, in namespaces that end with their processes, and in one folder. So whatever an earlier run left
behind, however it ended, is found and removed without a list of it.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.cluster.control_plane import CONTROL, SERVER, start_control_plane
from tests.cluster.images import build_all
from tests.cluster.layout import NODES, STATE, VOLUMES_OF_A_NODE, Node
from tests.cluster.machines import TREE, Machine, check_computer, is_removed, kill
from tests.cluster.network import connect, disconnect, make_bridge
from tests.cluster.nodes import boot, hold_policies, import_image, join
from tests.kube.control_plane import Kubectl, kubectl_for
from tests.kube.processes import eventually
from tests.kube.tools import CONTROL_PLANE, locked, tool
from tests.kube.tools import NODES as NODE_PROGRAMS

ADDONS = Path(__file__).with_name("addons.yaml")
READY_SECONDS = 120
LOCK, GUARD_LOG = (STATE.with_name(f"{STATE.name}.{name}") for name in ("lock", "guard.log"))


def build() -> list[Path]:
    """Build programs and images that this computer has not built yet, and return the archives of the images."""
    check_computer()
    for name in ("etcd", *CONTROL_PLANE, *NODE_PROGRAMS, "kube-router", "coredns", "helm"):
        tool(name)
    return build_all()


def up() -> None:
    """Start everything; all nodes are Ready, know the images, and DNS answers. What is there already is taken down first."""
    archives = build()
    down()
    STATE.mkdir(mode=0o700)
    SERVER.folder.mkdir()
    CONTROL.boot(SERVER.folder)
    make_bridge(CONTROL)
    with ThreadPoolExecutor() as pool:
        nodes = [pool.submit(prepare, node, archives) for node in NODES]
        start_control_plane()
        for node in nodes:
            node.result()
    for node in NODES:
        join(node, Machine(node.name))
    with CONTROL.network():
        furnish(kubectl_for(SERVER, tool("kubectl")))
    for node in NODES:
        hold_policies(node, Machine(node.name))


def prepare(node: Node, archives: list[Path]) -> None:
    """Boot a node and give it the images."""
    start_machine(node)
    for archive in archives:
        import_image(Machine(node.name), archive)


def start_machine(node: Node) -> None:
    """Boot a node and connect it."""
    machine = Machine(node.name)
    boot(node, machine)
    connect(CONTROL, machine, node)


def lose(node: Node) -> None:
    """Take a whole node away at once, as a lost zone would be: first nobody hears from it any more, then nothing of it runs."""
    disconnect(CONTROL, node)
    Machine(node.name).lose_power()


def bring_back(node: Node) -> None:
    """Start a lost node again, with what was on its disk."""
    start_machine(node)
    join(node, Machine(node.name))
    hold_policies(node, Machine(node.name))


def furnish(kubectl: Kubectl) -> None:
    """Give the cluster DNS and volumes, and wait until it is complete."""
    kubectl("apply", "--filename", "-", stdin=ADDONS.read_text() + "---\n" + yaml.safe_dump_all(volumes()))
    eventually(lambda: len(kubectl("get", "nodes", "--output", "name").split()) == len(NODES), seconds=READY_SECONDS)
    kubectl("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=50s")
    kubectl("rollout", "status", "daemonset/coredns", "--namespace=kube-system", "--timeout=50s")


def volumes() -> list[dict[str, object]]:
    """Disks of the nodes that wait for a claim."""
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{node.name}-{number}"},
            "spec": {
                "storageClassName": "disk",
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(node.folder / f"volume-{number}")},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on(node)]}]}},
            },
        }
        for node in NODES
        for number in range(VOLUMES_OF_A_NODE)
    ]


def on(node: Node) -> dict[str, object]:
    """Selects one node."""
    return {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}


def down() -> None:
    """End and remove everything of the cluster, whoever started it."""
    kill(TREE)
    eventually(lambda: is_removed(TREE), seconds=READY_SECONDS)
    shutil.rmtree(STATE, ignore_errors=True)


@contextmanager
def running() -> Iterator[None]:
    """Run the cluster until the block ends, or this process does; another run that has one is waited for.

    A guard takes it down when its input is closed, be it because this process was killed. It holds the lock as well, to the end.
    """
    with locked(LOCK) as lock, GUARD_LOG.open("wb") as log:
        command = [sys.executable, "-m", "tests.cluster.cluster", "guard"]
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, pass_fds=[lock.fileno()])
        try:
            up()
            yield
        finally:
            guard.communicate(timeout=READY_SECONDS)


def main(verb: str) -> None:
    """`up` and `down` of the Makefile, and the guard of a run, which has the lock already."""
    if verb == "guard":
        sys.stdin.read()
        down()
        return
    with locked(LOCK):
        down() if verb == "down" else up()
    if verb == "up":
        print(f"Ready: nsenter --target {CONTROL.init} --net env KUBECONFIG={SERVER.admin_kubeconfig} bash", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
