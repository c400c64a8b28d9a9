"""The network between the machines: a bridge in that of the control plane, and a cable to each node; called by `cluster.py`."""

import subprocess

from tests.cluster.layout import CONTROL_ADDRESS, NODES, SERVICES, STOCKHOLM, Node
from tests.cluster.machines import Machine

BRIDGE = "nodes"
# A connection attempt to a lost node is forgotten soon, or its entry would catch later ones from the same port for two minutes.
SETTINGS = {"net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0, "net.netfilter.nf_conntrack_tcp_timeout_syn_sent": 5}


def make_bridge(control: Machine) -> None:
    """Have the control plane at its address on a bridge."""
    control.run("ip", "link", "add", BRIDGE, "type", "bridge")
    control.run("ip", "address", "add", f"{CONTROL_ADDRESS}/24", "dev", BRIDGE)
    control.run("ip", "link", "set", BRIDGE, "up")


def disconnect(control: Machine, node: Node) -> None:
    """Cut the cable of a node."""
    control.run("ip", "link", "delete", cable_to(node))


def cable_to(node: Node) -> str:
    """The end of a cable that is at the bridge."""
    return f"to-{node.name}"


def connect(control: Machine, machine: Machine, node: Node) -> None:
    """Lay a cable from the bridge to a node, with routes to its pods and from there to everybody else's."""
    cable = cable_to(node)
    ends = (*("name", cable, "netns", str(control.init)), "type", "veth", "peer", *("name", "eth0", "netns", str(machine.init)))
    subprocess.run(["ip", "link", "add", *ends], check=True, timeout=10)
    control.run("ip", "link", "set", cable, "master", BRIDGE, "up")
    machine.run("ip", "address", "add", f"{node.address}/24", "dev", "eth0")
    machine.run("ip", "link", "set", "eth0", "up")
    machine.run("ip", "route", "add", "default", "via", CONTROL_ADDRESS)
    for setting, value in SETTINGS.items():
        machine.run("sysctl", "--quiet", "--write", f"{setting}={value}")
    for other in NODES:
        if other != node:
            machine.run("ip", "route", "add", other.pods, "via", other.address)
    route_from_control(control, node)


def route_from_control(control: Machine, node: Node) -> None:
    """Reach the pods of a node from the control plane, and Services through the witness, which no test takes away."""
    control.run("ip", "route", "replace", node.pods, "via", node.address)
    if node == STOCKHOLM:
        control.run("ip", "route", "replace", SERVICES, "via", node.address)
