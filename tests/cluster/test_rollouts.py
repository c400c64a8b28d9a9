"""What clients inside the cluster meet while pods come and go: requests on new connections, without a retry."""

import json
import signal

import pytest
from tests.cluster.conftest import Figures
from tests.cluster.images import NEXT
from tests.cluster.machines import send_to_pod
from tests.cluster.release import Release
from tests.cluster.traffic import traffic
from tests.kube.processes import eventually
from tests.kube.tiers import Json

# From the kill until the last node knows that the endpoint is gone.
NOTICED_SECONDS = 5


def test_no_request_fails_while_the_pods_are_restarted_one_by_one(release: Release, token: str, figures: Figures) -> None:
    """A pod that ends answers on until nobody sends it anything any more."""
    with traffic(release, token) as met:
        release.kubectl("rollout", "restart", "deployment", "--selector=app.kubernetes.io/component=api")
        release.wait_until_ready()

    figures("failed requests, rolling restart of both regions", met.verdict)
    assert met.failed() == []


def test_no_request_fails_while_the_release_is_upgraded_and_rolled_back(release: Release, token: str, figures: Figures) -> None:
    """With another image and other values; the tiers stay as they are."""
    before = release.tiers.names()
    with traffic(release, token) as met:
        release.helm.upgrade("--reset-then-reuse-values", "--set", f"api.image.tag={NEXT}", "--set", "api.drainSeconds=6")
        release.wait_until_ready()
        met.mark("upgraded")
        upgraded = {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in release.pods("api")}
        release.helm.rollback()
        release.wait_until_ready()

    figures(
        "failed requests, helm upgrade to another image", f"{len(met.failed(until='upgraded'))} of {len(met.between(until='upgraded'))}"
    )
    figures("failed requests, helm rollback", f"{len(met.failed(since='upgraded'))} of {len(met.between(since='upgraded'))}")
    assert upgraded == {NEXT}
    assert met.failed() == []
    assert release.tiers.names() == before


@pytest.mark.usefixtures("zones_can_be_lost")
def test_a_killed_pod_costs_no_request_once_its_endpoint_is_gone(release: Release, token: str, figures: Figures) -> None:
    """Every process of it at once, as the memory killer would; what was sent to it before fails, as nobody retries here."""
    victim = release.pods("api")[0]
    with traffic(release, token) as met:
        met.mark("killed")
        send_to_pod(victim["spec"]["nodeName"], victim["metadata"]["uid"], signal.SIGKILL)
        eventually(lambda: restarts(release, victim) > restarts_of(victim), seconds=30)
        release.wait_until_ready()

    figures("failed requests, one of four API pods killed", met.verdict)
    assert [late for late in met.failed() if late.at > met.marks["killed"] + NOTICED_SECONDS] == []


def restarts(release: Release, pod: Json) -> int:
    """How often the container of a pod has been started again by now."""
    return restarts_of(json.loads(release.kubectl("get", "pod", pod["metadata"]["name"], "--output", "json")))


def restarts_of(pod: Json) -> int:
    """How often its container had been started again."""
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def test_an_uninstall_keeps_the_tiers_and_a_new_installation_adopts_them(release: Release) -> None:
    """With the keys and the purchases that belong to them."""
    with release.region("frankfurt", "pro", tenant="patient") as customer:
        bought = customer.post("/v1/credits/purchases", {"amount": 700}, "an-order-before-the-uninstall")
    tiers = release.tiers.names()
    release.helm.uninstall()
    kept = release.tiers.names()
    release.helm.install(*release.trusted)
    release.wait_until_ready()
    eventually(release.tiers.all_ready, seconds=60)

    with release.region("dublin", "pro", tenant="patient") as customer:
        again = customer.post("/v1/credits/purchases", {"amount": 700}, "an-order-before-the-uninstall")

    assert kept == tiers
    assert (again.status, again.body, again.headers.get("idempotent-replayed")) == (201, bought.body, "true")
