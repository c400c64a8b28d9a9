"""Pods of the tests' own, which are none of the release's; called by `traffic.py` and `reach.py`."""

from collections.abc import Sequence

from tests.kube.tiers import Json


def restricted_pod(name: str, image: str, command: Sequence[str]) -> Json:
    """A pod of one container, which a namespace with restricted pod security takes."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": security, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
