"""A node: containerd, kubelet, kube-proxy and kube-router on a machine of its own; called by `cluster.py`."""

import json
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.control_plane import POLICIES, PROXY, SERVER, node_user
from tests.cluster.layout import DNS_ADDRESS, PODS, SERVICES, VOLUMES_OF_A_NODE, Node
from tests.cluster.machines import Machine
from tests.kube.processes import eventually
from tests.kube.tools import tool

SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = Path("/usr/lib/cni")
PAUSE_IMAGE = "localhost/pause:1"
START_SECONDS = 60


def boot(node: Node, machine: Machine) -> None:
    """Start the machine and its container runtime."""
    node.folder.mkdir(exist_ok=True)
    machine.boot(node.folder)
    write_settings(node)
    machine.start("containerd", ["containerd", "--config", str(node.folder / "containerd.toml")])
    eventually(lambda: "Server" in machine.run("ctr", "version", check=False), seconds=START_SECONDS)


def import_image(machine: Machine, archive: Path) -> None:
    """Have the node know an image, as if it had been pulled."""
    machine.run("ctr", "--namespace", "k8s.io", "images", "import", str(archive))


def join(node: Node, machine: Machine) -> None:
    """Have the node become part of the cluster."""
    labels = ",".join(f"{name}={value}" for name, value in node.labels.items())
    flags = [f"--config={node.folder}/kubelet.yaml", f"--kubeconfig={SERVER.folder}/{node_user(node.name)}.kubeconfig"]
    flags += [f"--hostname-override={node.name}", f"--node-ip={node.address}", f"--node-labels={labels}"]
    flags += [f"--root-dir={node.folder}/kubelet", f"--cert-dir={node.folder}/kubelet-certificates"]
    machine.start("kubelet", [str(tool("kubelet")), *flags])
    machine.start("kube-proxy", [str(tool("kube-proxy")), f"--config={node.folder}/kube-proxy.yaml"])


def hold_policies(node: Node, machine: Machine) -> None:
    """Have the node, which the cluster knows by now, refuse what NetworkPolicies do not allow: kube-router does that alone here."""
    flags = [
        f"--kubeconfig={SERVER.folder}/{POLICIES}.kubeconfig",
        f"--hostname-override={node.name}",
        f"--service-cluster-ip-range={SERVICES}",
    ]
    flags += ["--run-firewall=true", "--run-router=false", "--run-service-proxy=false", "--run-loadbalancer=false", "--enable-cni=false"]
    machine.start("kube-router", [str(tool("kube-router")), *flags, "--health-port=0", "--metrics-port=0"])


def write_settings(node: Node) -> None:
    """Write what the programs read; kube-proxy ends when its file changes, so it is written before it starts."""
    for number in range(VOLUMES_OF_A_NODE):
        (node.folder / f"volume-{number}").mkdir(exist_ok=True)
    (node.folder / "containerd.toml").write_text(containerd_settings(node))
    (node.folder / "resolv.conf").write_text("")
    for name, settings in {"kubelet": kubelet_settings(node), "kube-proxy": proxy_settings(node)}.items():
        (node.folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    network = node.folder / "cni"
    network.mkdir(exist_ok=True)
    (network / "pods.conflist").write_text(json.dumps(pod_network(node)))


def containerd_settings(node: Node) -> str:
    """For containerd 1.6, which Debian has: no process may have itself spared by the kernel's memory killer here."""
    return f"""
version = 2
root = "{node.folder}/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  enable_unprivileged_ports = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{node.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def pod_network(node: Node) -> dict[str, Any]:
    """A bridge on each node, and addresses from the node's own range."""
    addresses = {
        "type": "host-local",
        "dataDir": f"{node.folder}/addresses",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]}


def kubelet_settings(node: Node) -> dict[str, Any]:
    """A kubelet that trusts everybody in its network, where nobody else is, and reports often enough to be missed soon."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{Machine(node.name).cgroup}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "nodeLeaseDurationSeconds": 4,
        "nodeStatusUpdateFrequency": "2s",
        "resolvConf": f"{node.folder}/resolv.conf",
        "volumePluginDir": f"{node.folder}/volume-plugins",
    }


def proxy_settings(node: Node) -> dict[str, Any]:
    """Services by nftables; the sizes of connection tracking belong to the computer."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "hostnameOverride": node.name,
        "clientConnection": {"kubeconfig": f"{SERVER.folder}/{PROXY}.kubeconfig"},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
