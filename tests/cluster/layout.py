"""Names, addresses and folders of the cluster; called by its other modules."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

# One cluster on a computer at a time: what is found when a run has the lock is left over, and taken down.
STATE = Path(tempfile.gettempdir()) / "tidegate-cluster"
CONTROL_ADDRESS = "10.99.0.1"
SERVICES = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
PODS = "10.244.0.0/16"
# Volumes that wait for a claim on each node; a claim is bound to its node then, as a disk in a zone is.
VOLUMES_OF_A_NODE = 8


@dataclass(frozen=True)
class Node:
    """One node, which is a zone and a region of its own."""

    name: str
    number: int

    @property
    def address(self) -> str:
        """Its address in the network of the nodes."""
        return f"10.99.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def folder(self) -> Path:
        """Its disk."""
        return STATE / self.name

    @property
    def labels(self) -> dict[str, str]:
        """Where it stands, as a cloud would say."""
        return {"topology.kubernetes.io/zone": self.name, "topology.kubernetes.io/region": self.name}


FRANKFURT, DUBLIN, STOCKHOLM = NODES = tuple(
    Node(name, number) for number, name in enumerate(("frankfurt", "dublin", "stockholm"), start=1)
)
