"""Mistakes of whoever installs or runs the platform, as pods and their events show them, and how they are mended."""

import json
from collections.abc import Callable, Iterator

import pytest
import yaml
from tests.cluster.images import chart_values, reference
from tests.cluster.notes import commands, paste
from tests.cluster.pods import restricted_pod
from tests.cluster.release import Release
from tests.kube.chart import ROOT, wait_for_definition
from tests.kube.processes import eventually
from tests.kube.tiers import Json, condition

SECRET = "my-redis"
RIGHT, WRONG = "the-right-password", "a-wrong-password"
# Small: one pod in each region, and no lanes.
VALUES = f"redis.existingSecret={SECRET},cache.shared.enabled=false,api.replicas=1,crds.enabled=false"
SERVERS = ("frankfurt", "dublin", "store")
SEEN_SECONDS = 90


@pytest.fixture
def servers(make_release: Callable[[str], Release]) -> Iterator[tuple[Release, dict[str, str]]]:
    """A namespace with servers of its own, one for each region and one for the store, and the URL of each."""
    place = make_release("mistaken")
    for name in SERVERS:
        place.kubectl("apply", "--filename", "-", stdin=json.dumps(server(name)))
    place.kubectl("wait", "pods", "--all", "--for=condition=Ready", "--timeout=50s")
    found = json.loads(place.kubectl("get", "pods", "--output", "json"))["items"]
    yield place, {pod["metadata"]["name"]: f"redis://:{RIGHT}@{pod['status']['podIP']}:6379/0" for pod in found}
    place.helm.uninstall("--ignore-not-found")
    place.kubectl("delete", "pods", *SERVERS, "--wait=false")


def server(name: str) -> Json:
    """A Redis with a password that writes to its disk first, as the store's must."""
    command = ["valkey-server", "--requirepass", RIGHT, "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always"]
    pod = restricted_pod(name, reference(chart_values()["redis"]["image"]), command)
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    return pod


def give(place: Release, urls: dict[str, str], *, without: str = "") -> None:
    """Make or change the Secret that names the servers; without one key, if one is named."""
    regions = {name: url for name, url in urls.items() if name != "store"}
    values = {**{f"{name}.url": url for name, url in urls.items()}, "regions.yaml": yaml.safe_dump(regions)}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": values}
    values.pop(without, None)
    place.kubectl("apply", "--filename", "-", stdin=json.dumps(secret))


def events(place: Release, region: str) -> str:
    """What is said of the API pods of a region, as `kubectl describe` shows it."""
    selector = f"app.kubernetes.io/component=api,tidegate.dev/region={region}"
    return place.kubectl("describe", "pods", "--selector", selector)


def degraded(place: Release) -> str:
    """Why a tier is not enforced everywhere, as its status says; empty while it is."""
    found = condition(place.tiers.read("free"), "Degraded")
    return str(found["message"]) if found.get("status") == "True" else ""


def test_a_secret_without_a_key_and_with_a_wrong_password_is_seen_and_mended(servers: tuple[Release, dict[str, str]]) -> None:
    """One region waits all along and the other serves; pods, Helm and the status each say which and why, and none a password."""
    place, urls = servers
    place.helm.install(*place.trusted, "--set", VALUES)
    place.kubectl("apply", "--filename", str(ROOT / "k8s/tiers"))
    give(place, urls, without="dublin.url")

    eventually(
        lambda: f"couldn't find key dublin.url in Secret {place.namespace}/{SECRET}" in events(place, "dublin"), seconds=SEEN_SECONDS
    )
    assert f'redis.existingSecret: Secret "{SECRET}" has no dublin.url; add it' in place.helm.refusal("--reset-then-reuse-values")

    give(place, urls | {"dublin": urls["dublin"].replace(RIGHT, WRONG)})
    place.helm.upgrade("--reset-then-reuse-values")
    place.kubectl("rollout", "restart", "deployment/tidegate-operator")

    place.kubectl("rollout", "status", "deployment/tidegate-api-frankfurt", "--timeout=50s")
    eventually(lambda: "dublin: its Redis does not answer (AuthenticationError)" in degraded(place), seconds=SEEN_SECONDS)
    eventually(lambda: "Readiness probe failed: HTTP probe failed with statuscode: 503" in events(place, "dublin"), seconds=SEEN_SECONDS)
    logs = place.kubectl("logs", "--selector=app.kubernetes.io/part-of=tidegate", "--tail=-1")
    assert WRONG not in logs + degraded(place) + events(place, "dublin")

    give(place, urls)
    place.kubectl("rollout", "restart", "deployment")
    place.wait_until_ready()
    eventually(place.tiers.all_ready, seconds=SEEN_SECONDS)


def test_a_definition_that_is_deleted_and_applied_again_is_taken_up_by_the_running_operator(release: Release) -> None:
    """Without tiers nobody is served, never without a limit; with them all is as before."""
    (pod,) = release.pods("operator")
    (delete,) = commands(release.helm.notes(), "kubectl delete crd")
    paste(release, delete)
    with release.region("frankfurt", "pro", tenant="left-alone") as customer:
        eventually(lambda: customer.get("/v1/credits").status == 503, seconds=SEEN_SECONDS)

    release.helm.upgrade("--reset-then-reuse-values")
    wait_for_definition(release.kubectl)
    paste(release, f"kubectl apply --namespace {release.namespace} -f k8s/tiers/")

    eventually(lambda: release.tiers.names() and release.tiers.all_ready(), seconds=SEEN_SECONDS)
    release.wait_until_ready()
    assert [found["metadata"]["uid"] for found in release.pods("operator")] == [pod["metadata"]["uid"]]
    with release.region("dublin", "pro", tenant="left-alone") as customer:
        assert customer.get("/v1/credits").status == 200
