"""The chart on a real API server: install, upgrade and uninstall. Nothing runs, for there are no nodes."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from redis import Redis
from tests.conftest import Valkey
from tests.kube.chart import DEFINITION, KEPT, RELEASE, ROOT, Helm, wait_for_definition
from tests.kube.control_plane import ControlPlane, Kubectl, kubectl_for
from tests.kube.processes import eventually
from tests.kube.stage import operator, watchers
from tests.kube.tiers import Json

from tidegate.contract import keys
from tidegate.identity.rotation import REPLACEABLE


@pytest.fixture(scope="module")
def kubectl(own_cluster: ControlPlane, built: Callable[[str], Path]) -> Kubectl:
    """kubectl for a server without the definition: the one that the other tests share has it from another hand than Helm's."""
    return kubectl_for(own_cluster, built("kubectl"))


@pytest.fixture
def helm(own_cluster: ControlPlane, built: Callable[[str], Path], request: pytest.FixtureRequest) -> Iterator[Helm]:
    """Helm for a namespace of the test's own; what the test installed is removed with the definition."""
    number = request.session.items.index(request.node)
    yield Helm(built("helm"), own_cluster, f"release-{number}")
    Helm(built("helm"), own_cluster, f"release-{number}").uninstall("--ignore-not-found")
    remove_definition(kubectl_for(own_cluster, built("kubectl")))


def remove_definition(kubectl: Kubectl) -> None:
    """Delete it with all tiers. A server that has yet to prepare their storage is busy with that until the deletion is given up."""

    def is_prepared_or_gone() -> bool:
        tiers = kubectl("get", "--raw", "/apis/tidegate.dev/v1alpha1/ratelimittiers", check=False)
        return bool(tiers) or not kubectl("get", DEFINITION, "--ignore-not-found", "--output", "name")

    eventually(is_prepared_or_gone, seconds=50)
    kubectl("delete", DEFINITION, "--ignore-not-found", "--timeout=50s")


def secrets(kubectl: Kubectl, helm: Helm, kind: str = "Opaque") -> dict[str, dict[str, str]]:
    """The Secrets of the release: name -> key -> value. Helm's own, of another type, are left out."""
    ours = ("--namespace", helm.namespace, "--field-selector", f"type={kind}", "--output", "json")
    found = json.loads(kubectl("get", "secrets", *ours))["items"]
    return {secret["metadata"]["name"]: secret["data"] for secret in found}


def test_an_installation_serves_tiers(helm: Helm, kubectl: Kubectl) -> None:
    """One command brings the definition and everything else; the samples are the next."""
    helm.install()

    wait_for_definition(kubectl)
    kubectl("apply", "--namespace", helm.namespace, "--filename", str(ROOT / "k8s/tiers"))

    names = kubectl("get", "rlt", "--namespace", helm.namespace, "--output", "name").split()
    assert [name.rpartition("/")[2] for name in names] == ["enterprise", "free", "pro"]


def test_operators_may_become_two_and_one_again(helm: Helm, kubectl: Kubectl) -> None:
    """One alone is stopped before the next starts; what the API server had filled in for two must not stand in its way."""
    helm.install()
    helm.upgrade("--set", "operator.replicas=2")
    of_two = strategy(helm, kubectl)
    helm.upgrade("--set", "operator.replicas=1")

    assert of_two["type"] == "RollingUpdate"
    assert strategy(helm, kubectl) == {"type": "Recreate"}


def strategy(helm: Helm, kubectl: Kubectl) -> Json:
    """How the operator's Deployment replaces its pods."""
    found = kubectl("get", "deployment", "tidegate-operator", "--namespace", helm.namespace, "--output", "json")
    return dict(json.loads(found)["spec"]["strategy"])


OF_A_REGION_WITH_USERS = ("api.password", "conf", "operator.password", "support.password", "support.url", "url")


def test_an_upgrade_keeps_every_generated_secret(helm: Helm, kubectl: Kubectl) -> None:
    """New keys would forget every customer's usage and results, and new passwords would lock the workers out."""
    helm.install()
    before = secrets(kubectl, helm)

    helm.upgrade("--set", "api.replicas=3", "--set-json", 'regions=[{"name":"frankfurt"},{"name":"dublin"},{"name":"oslo"}]')

    after = secrets(kubectl, helm)
    replicas = kubectl("get", "deployments", "--namespace", helm.namespace, "--output", "jsonpath={.items[*].spec.replicas}")
    assert replicas.split().count("3") == 3
    assert sorted(before) == ["tidegate-cache", "tidegate-keys", "tidegate-redis"]
    assert all(after[name].items() >= made_once(values).items() for name, values in before.items())


def test_an_upgrade_leaves_servers_with_one_password_as_they_are_and_gives_a_new_region_users(helm: Helm, kubectl: Kubectl) -> None:
    """They read their users at the start alone, and a region's Redis that is restarted has forgotten what customers used."""
    helm.install(chart=KEPT)
    before = secrets(kubectl, helm)["tidegate-redis"]

    helm.upgrade("--set-json", 'regions=[{"name":"frankfurt"},{"name":"dublin"},{"name":"oslo"}]')

    after = secrets(kubectl, helm)["tidegate-redis"]
    assert after.items() >= made_once(before).items()
    assert sorted(after.keys() - before.keys()) == [f"oslo.{name}" for name in OF_A_REGION_WITH_USERS]


def made_once(values: dict[str, str]) -> dict[str, str]:
    """The values of a Secret that don't follow from the list of regions."""
    return {key: value for key, value in values.items() if key != "regions.yaml"}


@dataclass(frozen=True)
class Terminal:
    """Where somebody pastes the commands of the documentation; only waiting for pods is left out, for there are none."""

    helm: Helm
    folder: Path

    def run(self, script: str) -> str:
        """Run the commands; the first that fails ends them and the test."""
        environment = {**self.helm.environment, "PATH": f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script], capture_output=True, text=True, timeout=60, env=environment, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def terminal(helm: Helm, built: Callable[[str], Path], tmp_path: Path) -> Terminal:
    """With kubectl and helm for the namespace of the test, and the sources where a checkout has them."""
    commands = {"kubectl": f'[ "$1" = rollout ] || exec {built("kubectl")}', "helm": f"exec {built('helm')}"}
    for name, command in commands.items():
        (tmp_path / name).write_text(f'#!/bin/sh\n{command} --namespace {helm.namespace} "$@"\n')
        (tmp_path / name).chmod(0o700)
    (tmp_path / "charts").symlink_to(ROOT / "charts")
    return Terminal(helm, tmp_path)


@pytest.mark.parametrize("name", REPLACEABLE)
def test_a_key_is_replaced_as_documented(helm: Helm, kubectl: Kubectl, terminal: Terminal, name: str) -> None:
    """Key by key, from the documentation's own lines; another replacement can begin, and Helm does not undo one without being forced."""
    functions, *steps = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/rotation.md").read_text(), re.DOTALL)
    functions = functions.replace("KEY=identity", f"KEY={name}")
    helm.install()
    held = [secrets(kubectl, helm)["tidegate-keys"]]

    for step in steps:
        terminal.run(functions + step)
        held.append(secrets(kubectl, helm)["tidegate-keys"])

    original, both, switched, finished = held
    old, new = original[f"{name}.key"], both[f"{name}.other.key"]
    assert old != new
    assert both == {**original, f"{name}.other.key": new}
    assert switched == {**original, f"{name}.key": new, f"{name}.other.key": old}
    assert finished == {**original, f"{name}.key": new}
    terminal.run("! helm rollback tidegate 1")
    assert secrets(kubectl, helm)["tidegate-keys"] == finished
    terminal.run(functions + steps[0])


@pytest.mark.parametrize("document", ["one-cluster", "many-clusters", "gitops"])
def test_a_deployment_goes_as_documented(helm: Helm, kubectl: Kubectl, terminal: Terminal, document: str) -> None:
    """Line by line; then workers, operator and the three sample tiers are there."""
    steps = re.findall(r"^```sh\n(.*?)^```", (ROOT / f"docs/deploy/{document}.md").read_text(), re.DOTALL | re.MULTILINE)
    samples = Path(shutil.copytree(ROOT / "k8s", terminal.folder / "k8s"))
    kustomization = samples / "kustomize/kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("\nnamespace: tidegate\n", f"\nnamespace: {helm.namespace}\n"))
    for name in ("jwks.json", "ca.crt", "tls.crt", "tls.key"):
        (terminal.folder / name).write_text('{"keys": []}')

    for step in steps:
        terminal.run(re.sub(r"\bnamespace tidegate\b", f"namespace {helm.namespace}", step))

    names = kubectl("get", "deployments,rlt", "--namespace", helm.namespace, "--output", "name").split()
    assert {name.rpartition("/")[2] for name in names} >= {"tidegate-operator", "tidegate-api-frankfurt", "enterprise", "free", "pro"}


def test_servers_with_one_password_change_over_to_users_as_documented(helm: Helm, kubectl: Kubectl, terminal: Terminal) -> None:
    """But for the restart of all pods, for there are none."""
    helm.install(chart=KEPT)
    (step,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/redis.md").read_text(), re.DOTALL | re.MULTILINE)

    terminal.run(step.replace("namespace tidegate", f"namespace {helm.namespace}"))

    assert secrets(kubectl, helm)["tidegate-redis"].keys() >= {f"dublin.{name}" for name in OF_A_REGION_WITH_USERS}


def test_two_installations_share_no_secret(helm: Helm, kubectl: Kubectl) -> None:
    """What is generated is random, and long enough."""
    helm.install()
    first = secrets(kubectl, helm)["tidegate-keys"]
    other = replace(helm, namespace=f"{helm.namespace}-other")

    other.install("--set", "crds.enabled=false")

    second = secrets(kubectl, other)["tidegate-keys"]
    other.uninstall()
    assert sorted(first) == sorted(second) == ["idempotency.key", "identity.key", "lane.key", "result.key"]
    assert all(first[key] != second[key] for key in first)
    assert all(len(base64.b64decode(second[key])) >= 32 for key in second)


def test_a_new_installation_finds_the_keys_of_the_results_that_were_kept(helm: Helm, kubectl: Kubectl) -> None:
    """The store's volume outlives an uninstall; with other keys its results would not be found, and a retry be charged again."""
    helm.install()
    before = secrets(kubectl, helm)["tidegate-keys"]

    helm.uninstall()
    helm.install()

    assert secrets(kubectl, helm)["tidegate-keys"] == before


def test_an_uninstall_keeps_the_definition_and_the_tiers(helm: Helm, kubectl: Kubectl) -> None:
    """Removing the platform for a moment doesn't lose what customers were promised; a new installation takes it up again."""
    helm.install()
    wait_for_definition(kubectl)
    kubectl("apply", "--namespace", helm.namespace, "--filename", str(ROOT / "k8s/tiers/free.yaml"))

    helm.uninstall()
    kept = kubectl("get", "rlt", "--namespace", helm.namespace, "--output", "name").split()
    left = kubectl("get", "deployments,statefulsets,services,roles", "--namespace", helm.namespace, "--output", "name")
    helm.install()

    assert kept == ["ratelimittier.tidegate.dev/free"]
    assert left == ""


def test_an_operator_that_was_there_first_waits_for_the_definition(helm: Helm, kubectl: Kubectl, valkey: Valkey, tmp_path: Path) -> None:
    """It follows the tiers from then on, not only at each slow resync."""
    helm.install("--set", "crds.enabled=false")
    region = SimpleNamespace(name="frankfurt", valkey=valkey)
    with operator(tmp_path, [region], helm.cluster.admin_kubeconfig, helm.namespace) as running:
        running.wait_until(lambda: "cannot be listed yet" in running.last_words(), seconds=20)

        helm.upgrade("--reset-values")
        wait_for_definition(kubectl)
        running.wait_until(lambda: watchers(valkey) == 1, seconds=20)
        kubectl("apply", "--namespace", helm.namespace, "--filename", str(ROOT / "k8s/tiers/free.yaml"))

        with Redis(port=valkey.port) as redis:
            eventually(lambda: redis.hexists(keys.TIERS, "free"), seconds=5)


def test_an_operator_whose_definition_is_deleted_ends_and_waits_for_it_at_its_next_start(
    helm: Helm, kubectl: Kubectl, valkey: Valkey, tmp_path: Path
) -> None:
    """kopf looks for a resource once: the pod's restart is what finds it again, so the end must come, and soon."""
    helm.install()
    apply = ("apply", "--namespace", helm.namespace, "--filename", str(ROOT / "k8s/tiers/free.yaml"))
    wait_for_definition(kubectl)
    kubectl(*apply)
    region = SimpleNamespace(name="frankfurt", valkey=valkey)
    with operator(tmp_path, [region], helm.cluster.admin_kubeconfig, helm.namespace) as running, Redis(port=valkey.port) as redis:
        eventually(lambda: redis.hexists(keys.TIERS, "free"), seconds=20)

        kubectl("delete", DEFINITION, "--timeout=50s")

        eventually(running.has_ended, seconds=10)
        assert not redis.exists(keys.TIERS)
        running.start()
        running.wait_until(lambda: "cannot be listed yet" in running.last_words(), seconds=20)
        helm.upgrade()
        wait_for_definition(kubectl)
        kubectl(*apply)
        eventually(lambda: redis.hexists(keys.TIERS, "free"), seconds=10)


def test_an_uninstall_removes_the_definition_when_told_so(helm: Helm, kubectl: Kubectl) -> None:
    """`crds.keep=false` leaves nothing behind, tiers that an operator knew neither: it holds no object back."""
    helm.install("--set", "crds.keep=false")
    wait_for_definition(kubectl)
    kubectl("apply", "--namespace", helm.namespace, "--filename", str(ROOT / "k8s/tiers/free.yaml"))

    helm.uninstall()

    eventually(lambda: not kubectl("get", "crds", "--output", "name"), seconds=10)


def test_secrets_of_ones_own_are_used_and_none_is_made(helm: Helm, kubectl: Kubectl) -> None:
    """Managed Redis servers and keys from a vault: the chart makes neither Secret nor Redis."""
    helm.install("--set", "keys.existingSecret=my-keys,redis.existingSecret=my-redis,cache.existingSecret=my-lanes")

    found = workloads(kubectl, helm)
    assert secrets(kubectl, helm) == {}
    assert {workload["kind"] for workload in found} == {"Deployment"}
    assert set(secret_names(found)) == {"my-keys", "my-redis", "my-lanes"}


def test_a_second_release_in_a_namespace_is_refused_with_a_sentence(helm: Helm) -> None:
    """Both operators would write the status of every tier, each in answer to the other, a hundred times a second."""
    helm.install()

    refusal = helm.refusal("--set", "crds.enabled=false", release="other")

    assert f'namespace "{helm.namespace}": release "{RELEASE}" is here already' in refusal
    assert "choose another namespace" in refusal
    helm.upgrade()


@pytest.mark.parametrize("other", ["fullnameOverride=gate", "nameOverride=gate,fullnameOverride=tidegate"])
def test_another_name_is_refused_with_the_one_that_there_is(helm: Helm, kubectl: Kubectl, other: str) -> None:
    """Helm would make everything under the new name and remove the rest: the store of what customers paid for would begin empty."""
    helm.install()

    refusal = helm.refusal("--set", other)

    assert "this release was installed with nameOverride=tidegate and fullnameOverride=tidegate" in refusal
    helm.upgrade("--set", "nameOverride=tidegate,fullnameOverride=tidegate")


@pytest.mark.parametrize("store", ["store.type=Redis", "store.type=Etcd"])
def test_other_volumes_of_the_store_are_refused_before_anything_changes(helm: Helm, kubectl: Kubectl, store: str) -> None:
    """The cluster would refuse them in the middle, when the other half of the upgrade is done."""
    helm.install("--set", store)

    assert "store.size: the volumes of this release were made with 1Gi" in helm.refusal("--set", f"{store},store.size=2Gi")
    assert "store.storageClassName: the volumes of this release" in helm.refusal("--set", f"{store},store.storageClassName=fast")
    helm.upgrade("--set", f"{store},store.size=1024Mi")


def test_other_volumes_of_the_regions_are_refused_before_anything_changes(helm: Helm) -> None:
    """Also none where there were some, and some where there was none; a region that is new is free to have what the others have."""
    kept = "redis.persistence.enabled=true,redis.resources.limits.memory=320Mi"
    helm.install("--set", kept)

    assert "redis.persistence.enabled: tidegate-redis-frankfurt was made otherwise" in helm.refusal(
        "--set", "redis.persistence.enabled=false"
    )
    assert "redis.persistence.size: the volumes of this release were made with 1Gi" in helm.refusal(
        "--set", f"{kept},redis.persistence.size=2Gi"
    )
    helm.upgrade("--set", kept, "--set-json", 'regions=[{"name":"frankfurt"},{"name":"dublin"},{"name":"oslo"}]')


def test_a_rotation_without_its_other_key_is_refused_with_the_name_of_the_key(helm: Helm) -> None:
    """Each pod that is made anew would end for want of that file."""
    helm.install()

    said = helm.refusal("--set", "keys.rotating={identity}")

    assert 'keys.rotating: Secret "tidegate-keys" has no identity.other.key' in said


def secret_names(node: Any) -> Iterator[str]:
    """Names of all Secrets that a manifest refers to."""
    if isinstance(node, dict):
        named = {"secretName": node.get("secretName"), "secretKeyRef": node.get("secretKeyRef", {}).get("name")}
        yield from filter(None, named.values())
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from secret_names(child)


ETCD = ("--set", "store.type=Etcd")


def test_an_upgrade_and_a_new_installation_keep_the_certificates_of_the_store(helm: Helm, kubectl: Kubectl) -> None:
    """Members of another authority would not find one another, nor workers them."""
    helm.install(*ETCD)
    before = secrets(kubectl, helm, "kubernetes.io/tls")

    helm.upgrade(*ETCD, "--set", "api.replicas=3")
    upgraded = secrets(kubectl, helm, "kubernetes.io/tls")
    helm.uninstall()
    helm.install(*ETCD)

    assert sorted(before) == ["tidegate-store-client-tls", "tidegate-store-tls"]
    assert before == upgraded == secrets(kubectl, helm, "kubernetes.io/tls")


@pytest.mark.parametrize(
    ("installed", "wanted", "said"),
    [
        ((), ETCD, "the store of this release is of type Redis"),
        (ETCD, ("--set", "store.type=Redis"), "the store of this release is of type Etcd"),
        (ETCD, (*ETCD, "--set", "store.etcd.replicas=5"), "the store of this release has 3 members"),
        ((), ("--set", "redis.existingSecret=servers"), "redis.existingSecret: this release installed its store"),
        (ETCD, ("--set", "store.existingSecret=other"), "store.existingSecret: this release installed its store"),
    ],
)
def test_a_store_that_would_be_found_empty_is_refused(
    helm: Helm, kubectl: Kubectl, installed: tuple[str, ...], wanted: tuple[str, ...], said: str
) -> None:
    """What customers were answered is not in the other one."""
    helm.install(*installed)
    before = store_revision(kubectl, helm)

    assert said in helm.refusal(*wanted)
    assert store_revision(kubectl, helm) == before
    helm.upgrade(*installed)


def store_revision(kubectl: Kubectl, helm: Helm) -> str:
    """A number that changes with what is asked of the store."""
    return kubectl("get", "statefulset", "tidegate-store", "--namespace", helm.namespace, "--output", "jsonpath={.metadata.generation}")


def test_a_member_can_be_replaced_and_the_store_be_as_before(helm: Helm, kubectl: Kubectl) -> None:
    """The same pod again, so that the members that stayed are not restarted afterwards either."""
    helm.install(*ETCD)
    seen = []
    for membership in ("Formed", "Replacing", "Formed"):
        helm.upgrade(*ETCD, "--set", f"store.etcd.membership={membership}")
        found = kubectl("get", "statefulset", "tidegate-store", "--namespace", helm.namespace, "--output", "json")
        seen.append(json.loads(found)["spec"])

    formed, replacing, again = seen
    assert formed["updateStrategy"]["type"] == "RollingUpdate"
    assert replacing["updateStrategy"] == {"type": "OnDelete"}
    assert replacing["template"] != formed["template"]
    assert again["template"] == formed["template"]
    assert again["updateStrategy"]["type"] == "RollingUpdate"


@pytest.mark.parametrize("values", [(), (*ETCD, "--set", "store.etcd.failureDomains={a,b,c}")])
def test_every_pod_is_admitted_where_pod_security_is_restricted(helm: Helm, kubectl: Kubectl, values: tuple[str, ...]) -> None:
    """The server's own judge of pods has nothing to object to."""
    helm.install(*values)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    strict = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"{helm.namespace}-strict", "labels": labels}}
    kubectl("apply", "--filename", "-", stdin=json.dumps(strict))
    pods = [pod_of(workload, f"{helm.namespace}-strict") for workload in workloads(kubectl, helm)]

    admitted = kubectl("create", "--dry-run=server", "--filename", "-", stdin=yaml.safe_dump_all(pods)).splitlines()

    assert len(admitted) == len(pods) == 8


def workloads(kubectl: Kubectl, helm: Helm) -> list[Json]:
    """Everything of the release that makes pods."""
    listed = kubectl("get", "deployments,statefulsets", "--namespace", helm.namespace, "--output", "json")
    return list(json.loads(listed)["items"])


def pod_of(workload: Json, namespace: str) -> Json:
    """The pod that a controller would make of a workload; a claim may be any volume here."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": workload["metadata"]["name"], "namespace": namespace}}
    claims = [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in workload["spec"].get("volumeClaimTemplates", [])]
    template = workload["spec"]["template"]["spec"]
    return {**pod, "spec": {**template, "volumes": [*template["volumes"], *claims]}}
