"""Who the operator is and what it may, as the chart says, or all of that but for one verb; called by the tests of its rights."""

from collections.abc import Callable
from pathlib import Path

import yaml
from tests.kube.chart import Helm
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import eventually
from tests.kube.tiers import Json

RIGHTS = ("ServiceAccount", "Role", "RoleBinding")


def rendered(built: Callable[[str], Path], cluster: ControlPlane, namespace: str, *options: str) -> list[Json]:
    """Who the operator is and what it may, as the chart says."""
    return Helm(built("helm"), cluster, namespace).render_kinds(*RIGHTS, options=options)


def without(rights: list[Json], resource: str, verb: str) -> list[Json]:
    """The same rights but for one verb."""
    (role,) = (one for one in rights if one["kind"] == "Role")
    rules = [
        {**rule, "resources": [name], "verbs": [held for held in rule["verbs"] if (name, held) != (resource, verb)]}
        for rule in role["rules"]
        for name in rule["resources"]
    ]
    held = sum(len(rule["verbs"]) * len(rule["resources"]) for rule in role["rules"])
    assert sum(len(rule["verbs"]) for rule in rules) == held - bool(verb)
    # A rule without verbs is refused.
    rules = [rule for rule in rules if rule["verbs"]]
    return [{**one, "rules": rules} if one["kind"] == "Role" else one for one in rights]


def sign_in(kubectl: Kubectl, cluster: ControlPlane, namespace: str, rights: list[Json]) -> Path:
    """A kubeconfig of the service account, which has these rights by now."""
    kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=yaml.safe_dump_all(rights))
    (account,) = (subject["name"] for one in rights if one["kind"] == "RoleBinding" for subject in one["subjects"])
    token = kubectl("create", "token", account, "--namespace", namespace, "--duration", "1h").strip()
    path = cluster.kubeconfig(f"{account}-{namespace}", token)
    (role,) = (one for one in rights if one["kind"] == "Role")
    granted = role["rules"][0]
    resource, _, subresource = granted["resources"][0].partition("/")
    question = ("auth", "can-i", granted["verbs"][0], f"{resource}.{granted['apiGroups'][0]}", "--subresource", subresource)
    eventually(lambda: kubectl(*question, "--namespace", namespace, "--kubeconfig", str(path), check=False).strip() == "yes", seconds=10)
    return path
