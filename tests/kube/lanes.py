"""What tests see and do of dedicated cache lanes: their objects, and the part of the controllers that a bare API server lacks."""

import json
from dataclasses import dataclass

from tests.kube.control_plane import Kubectl
from tests.kube.tiers import Json, limited

KINDS = ("Secret", "NetworkPolicy", "Service", "StatefulSet")


def dedicated(memory: str = "16Mi", **changes: object) -> Json:
    """A spec with a dedicated lane of so much memory."""
    return limited(10**6) | {"cache": {"lane": "Dedicated", "memory": memory, **changes}}


@dataclass(frozen=True)
class LaneObjects:
    """The objects of the lanes of one namespace."""

    kubectl: Kubectl
    namespace: str

    def of(self, tier: str) -> list[Json]:
        """All objects of a tier's lanes."""
        return [found for found in self._all() if found["metadata"]["labels"]["tidegate.dev/tier"] == tier]

    def made(self, tier: str, regions: int = 2) -> list[Json]:
        """The same once they are complete in so many regions; nothing before."""
        found = self.of(tier)
        return found if sorted(one["kind"] for one in found) == sorted(KINDS * regions) else []

    def one(self, tier: str, kind: str, region: str) -> Json:
        """The object of a kind in a region; empty if there is none."""
        found = [one for one in self.of(tier) if (one["kind"], one["metadata"]["labels"]["tidegate.dev/region"]) == (kind, region)]
        return found[0] if found else {}

    def play_controller(self, tier: str, region: str, *, ready: int = 1) -> None:
        """Write the status that the controller of StatefulSets would once the pod of the newest template is there, `ready` or not."""
        found = self.one(tier, "StatefulSet", region)["metadata"]
        status = {"observedGeneration": found["generation"], "replicas": 1, "readyReplicas": ready, "updatedReplicas": 1}
        self.run("patch", "statefulset", found["name"], "--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}))

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace."""
        return self.kubectl(*arguments, "--namespace", self.namespace, stdin=stdin)

    def _all(self) -> list[Json]:
        kinds = ",".join(KINDS)
        return list(json.loads(self.run("get", kinds, "--selector", "tidegate.dev/lane", "--output", "json"))["items"])


def pod_of(stateful_set: Json, namespace: str) -> Json:
    """The pod that the controller would make."""
    template = stateful_set["spec"]["template"]
    metadata = {"name": f"{stateful_set['metadata']['name']}-0", "namespace": namespace, "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def states(tier: Json) -> dict[str, str]:
    """The state of a tier's lane in each region that its status tells of."""
    return {region["name"]: region["lane"]["state"] for region in tier.get("status", {}).get("regions", []) if "lane" in region}
