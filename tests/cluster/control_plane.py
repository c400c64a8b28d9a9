"""The control plane of the cluster, with its controllers, on a machine of its own; called by `cluster.py`."""

import secrets

from tests.cluster.layout import CONTROL_ADDRESS, NODES, PODS, SERVICES, STATE
from tests.cluster.machines import Machine
from tests.kube.control_plane import ADMIN, ADMIN_TOKEN, ControlPlane, common_server_flags, etcd_flags
from tests.kube.processes import eventually
from tests.kube.tools import tool

CONTROL = Machine("control")
SERVER = ControlPlane(f"https://{CONTROL_ADDRESS}:6443", STATE / "control")
# With these the API server is started again.
FLAGS = SERVER.folder / "flags"
ETCD, ETCD_PEERS = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
MANAGER, SCHEDULER, PROXY = "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"
# Not one of Kubernetes' own: what it may do is in addons.yaml.
POLICIES = "kube-router"
START_SECONDS = 90


def node_user(name: str) -> str:
    """As whom the kubelet of a node signs in."""
    return f"system:node:{name}"


def start_control_plane() -> None:
    """Start everything on the running machine; the API server answers, and its controllers do their work."""
    users = [MANAGER, SCHEDULER, PROXY, POLICIES, *(node_user(node.name) for node in NODES)]
    tokens = {user: secrets.token_urlsafe(32) for user in users}
    for user, token in tokens.items():
        SERVER.kubeconfig(user, token)
    CONTROL.start("etcd", [str(tool("etcd")), *etcd_flags(SERVER.folder, ETCD, ETCD_PEERS)])
    flags = [*common_server_flags(SERVER, ETCD, {ADMIN: ADMIN_TOKEN, **tokens}), *server_flags()]
    FLAGS.write_text("\n".join(flags))
    start_server()
    CONTROL.start("kube-controller-manager", [str(tool("kube-controller-manager")), *manager_flags()])
    CONTROL.start("kube-scheduler", [str(tool("kube-scheduler")), *signed_in(SCHEDULER), "--leader-elect=false"])


def server_flags() -> list[str]:
    """An API server for nodes; pods leave a lost one after 5 s, for which a cluster with defaults waits 300."""
    seconds = 5
    return [
        *("--bind-address", "0.0.0.0", "--advertise-address", CONTROL_ADDRESS, "--service-cluster-ip-range", SERVICES),
        *("--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction"),
        *("--kubelet-preferred-address-types", "InternalIP"),
        *(f"--default-{state}-toleration-seconds={seconds}" for state in ("not-ready", "unreachable")),
    ]


def start_server() -> None:
    """Start the API server, again if it has ended, and wait for it."""
    CONTROL.start("kube-apiserver", [str(tool("kube-apiserver")), *FLAGS.read_text().splitlines()])
    wait_for_server()


def kill_server() -> None:
    """End the API server at once."""
    CONTROL.kill(tool("kube-apiserver"))


def wait_for_server() -> None:
    """Wait until the API server serves everything."""

    def is_ready() -> bool:
        with CONTROL.network():
            return SERVER.is_ready()

    eventually(is_ready, seconds=START_SECONDS)


def manager_flags() -> list[str]:
    """The controllers, which notice a lost node after 8 s: a default of 50 s would make every test of it a minute longer."""
    return [
        *signed_in(MANAGER),
        *("--use-service-account-credentials", "--leader-elect=false", "--allocate-node-cidrs=false", f"--cluster-cidr={PODS}"),
        *(f"--service-account-private-key-file={SERVER.folder}/service-account.pem", f"--root-ca-file={SERVER.authority}"),
        *("--node-monitor-grace-period=8s", "--node-monitor-period=1s"),
    ]


def signed_in(user: str) -> list[str]:
    """Flags by which a component signs in; nobody signs in to it."""
    return [f"--kubeconfig={SERVER.folder}/{user}.kubeconfig", "--bind-address=127.0.0.1"]
