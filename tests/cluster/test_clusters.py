"""Two releases in two namespaces that stand for two clusters: each with a region, an operator, a Redis and tiers of its own.

What they share is what docs/deploy/many-clusters.md says: the keys, the issuer's keys, and one consistent store outside of both.
"""

import http.client
import json
import signal
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from tests.cluster.conftest import Figures
from tests.cluster.images import chart_values, reference
from tests.cluster.machines import send_to_pod
from tests.cluster.pods import restricted_pod
from tests.cluster.release import Release, is_ready
from tests.cluster.traffic import traffic
from tests.kube.processes import eventually
from tests.kube.tiers import Json, limited

from tidegate.local.client import Client

FRANKFURT, DUBLIN = "frankfurt", "dublin"
STORE = "redis://store.shared.svc.cluster.local:6379/0"
# A name that nobody knows must not matter.
NOWHERE = {"name": "nowhere", "url": "http://tidegate-api-nowhere.nowhere.svc.cluster.local"}
PURCHASES = "/v1/credits/purchases"
# So long the traffic goes on, to meet what it is to meet.
MET_SECONDS = 3
# So soon a Redis has its log on disk.
WRITTEN_SECONDS = 2
KEYS = ("identity", "idempotency", "result", "lane")


@pytest.fixture(scope="module")
def clusters(release: Release, make_release: Callable[[str], Release]) -> Iterator[tuple[Release, Release]]:
    """Frankfurt's and Dublin's, with edges that name each other's API; the definition is that of another release."""
    shared = make_release("shared")
    shared.kubectl("apply", "--filename", "-", stdin=json.dumps(store()))
    shared.kubectl("rollout", "status", "deployment/store", "--timeout=60s", seconds=70)
    first, second = make_release(FRANKFURT), make_release(DUBLIN)
    both = first, replace(second, keys=first.keys)
    for own, other in zip(both, reversed(both), strict=True):
        own.kubectl("apply", "--filename", "-", stdin=json.dumps(secrets(own)))
        own.helm.install(*own.trusted, *values(own.namespace, other.namespace))
        own.tiers.create("unlimited", limited(1_000_000))
        own.tiers.create("free", limited(10_000))
    for own in both:
        own.wait_until_ready()
        eventually(own.tiers.all_ready, seconds=60)
    yield both
    for own in both:
        own.helm.uninstall()
    shared.kubectl("delete", "deployment/store")


def store() -> Json:
    """A Valkey that loses nothing that it acknowledged, as long as its pod lives."""
    labels = {"app": "store"}
    command = ["valkey-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"]
    pod = restricted_pod("store", reference(chart_values()["redis"]["image"]), command)["spec"]
    (container,) = pod["containers"]
    container |= {
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod["securityContext"]["fsGroup"] = 10001
    pod |= {"restartPolicy": "Always", "volumes": [{"name": "data", "emptyDir": {}}]}
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
    service = {"selector": labels, "ports": [{"port": 6379}]}
    return listed(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "store"}, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "store"}, "spec": service},
    )


def secrets(release: Release) -> Json:
    """The keys of the tests, which are the same in both clusters, and where the store is."""
    keys = {f"{name}.key": getattr(release.keys, name).read_bytes() for name in KEYS}
    found = {"keys": keys, "store": {"store.url": STORE.encode()}}
    return listed(
        *(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name},
                "data": {key: b64encode(value).decode() for key, value in data.items()},
            }
            for name, data in found.items()
        )
    )


def listed(*items: Json) -> Json:
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def values(own: str, other: str) -> tuple[str, ...]:
    """What a release of one cluster is installed with."""
    peers = [NOWHERE, {"name": other, "url": f"http://tidegate-api-{other}.{other}.svc.cluster.local"}]
    settings = "keys.existingSecret=keys,store.existingSecret=store,crds.enabled=false,edge.enabled=true,api.workers=1"
    settings += ",redis.persistence.enabled=true,redis.resources.limits.memory=320Mi"
    regions, named = json.dumps([{"name": own}]), json.dumps(peers)
    return "--set", settings, "--set-json", f"regions={regions}", "--set-json", f"edge.peers={named}"


def test_a_purchase_whose_reply_was_lost_in_one_cluster_is_replayed_by_the_other(clusters: tuple[Release, Release]) -> None:
    """The same bytes from both, and charged once."""
    here, there = clusters
    order, key = {"amount": 500}, "an-order-of-two-clusters"
    with here.region(FRANKFURT, "free", tenant="buyer") as customer:
        with unread(here, order, key, tenant="buyer"):
            eventually(lambda: balance(customer) == order["amount"], seconds=10)
        with there.region(DUBLIN, "free", tenant="buyer") as elsewhere:
            replayed = elsewhere.post(PURCHASES, order, key)
            assert balance(elsewhere) == order["amount"]
        again = customer.post(PURCHASES, order, key)

    assert [(answer.status, answer.region, answer.headers.get("idempotent-replayed")) for answer in (replayed, again)] == [
        (201, DUBLIN, "true"),
        (201, FRANKFURT, "true"),
    ]
    assert replayed.body == again.body


@contextmanager
def unread(release: Release, order: Json, key: str, *, tenant: str) -> Iterator[None]:
    """A purchase in the region of a cluster whose answer nobody reads: the connection ends with the block."""
    headers = {
        "Authorization": f"Bearer {release.token('free', tenant=tenant)}",
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{key}"',
    }
    with release.forwarded(release.namespace) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", PURCHASES, json.dumps(order), headers)
        yield
        connection.close()


def balance(customer: Client) -> int:
    """What a customer has bought."""
    return int(customer.get("/v1/credits").json()["balance"])


def test_what_customers_have_used_outlives_a_redis_that_is_kept_on_a_volume(clusters: tuple[Release, Release]) -> None:
    """Its pod is killed like one whose node has no more memory, a second after the last request."""
    here, _ = clusters
    with here.region(FRANKFURT, "free", tenant="counted") as customer:
        answers = [customer.get("/v1/credits").status for _ in range(5)]
    written_by = time.monotonic() + WRITTEN_SECONDS
    eventually(lambda: time.monotonic() > written_by, seconds=5)
    (redis,) = here.pods("redis")
    here.kubectl("delete", "pod", redis["metadata"]["name"], "--grace-period=0", "--force")
    # Until somebody has noticed, all is called ready.
    eventually(
        lambda: [pod["metadata"]["uid"] for pod in here.pods("redis") if is_ready(pod)] not in ([], [redis["metadata"]["uid"]]), seconds=50
    )
    here.wait_until_ready()
    # A ready pod is not reached before its node was told where the Service leads now.
    used = eventually(lambda: here.used(FRANKFURT, "free", tenant="counted"), seconds=20)

    assert answers == [200] * 5
    assert used == [5]
    assert here.pods("redis")[0]["metadata"]["uid"] != redis["metadata"]["uid"]


def test_an_operator_touches_the_tiers_of_its_own_cluster_alone(clusters: tuple[Release, Release]) -> None:
    """Two of one name, with other limits: one is edited, then deleted, and the other stays what it is."""
    here, there = clusters
    for own, allowed in ((here, 20), (there, 30)):
        own.tiers.create("silver", limited(allowed))
    for own in clusters:
        eventually(own.tiers.all_ready, seconds=20)
    before = there.tiers.versions()

    here.tiers.edit("silver", **limited(25))
    eventually(lambda: limit(here) == 25, seconds=20)
    here.tiers.delete("silver")
    eventually(lambda: limit(here) == 10_000, seconds=20)

    assert limit(there) == 30
    assert there.tiers.versions() == before


def limit(release: Release) -> int:
    """What a token of the tier `silver` meets in the region of a cluster; that of the default tier, when there is none."""
    with release.region(release.namespace, "silver") as customer:
        return int(customer.get("/v1/usage").json()["windows"][0]["limit"])


def test_a_cluster_without_pods_is_answered_by_the_other_and_no_request_fails(clusters: tuple[Release, Release], figures: Figures) -> None:
    """Its edges go on, and so do its customers."""
    here, _ = clusters
    api = f"deployment/tidegate-api-{FRANKFURT}"
    with traffic(here, here.token("unlimited", tenant="traveller")) as met:
        here.kubectl("scale", api, "--replicas=0")
        here.kubectl("wait", "pods", "--for=delete", "--selector=app.kubernetes.io/component=api", "--timeout=60s", seconds=70)
        met.mark("gone")
        eventually(lambda: time.time() > met.marks["gone"] + MET_SECONDS, seconds=60)
        met.mark("returning")
        here.kubectl("scale", api, "--replicas=2")
        here.wait_until_ready()
        met.mark("back")
        eventually(lambda: time.time() > met.marks["back"] + MET_SECONDS, seconds=60)

    figures("failed requests, all API pods of a cluster scaled away and back, edges and a peer", met.verdict)
    assert met.failed() == []
    assert set(met.regions(since="gone", until="returning")) == {DUBLIN}
    assert met.regions(since="back")[FRANKFURT] > 0


@pytest.mark.usefixtures("zones_can_be_lost")
def test_a_cluster_whose_pods_are_all_killed_at_once_costs_no_request(clusters: tuple[Release, Release], figures: Figures) -> None:
    """What was under way is sent again to the other."""
    here, _ = clusters
    pods = here.pods("api")
    with traffic(here, here.token("unlimited", tenant="survivor")) as met:
        met.mark("killed")
        for pod in pods:
            send_to_pod(pod["spec"]["nodeName"], pod["metadata"]["uid"], signal.SIGKILL)
        here.wait_until_ready()
        eventually(lambda: time.time() > met.marks["killed"] + MET_SECONDS, seconds=60)

    figures("failed requests, all API pods of a cluster killed, edges and a peer", met.verdict)
    assert met.regions(since="killed")[DUBLIN] > 0
    assert met.failed() == []
