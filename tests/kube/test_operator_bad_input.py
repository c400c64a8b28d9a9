"""The operator and what nobody meant to give it: a huge object, a finalizer of somebody else's, a wrong password, a missing key."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes import client
from redis import Redis
from tests.conftest import Valkey
from tests.kube.conftest import make_namespace
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import Program, eventually
from tests.kube.stage import Regions, everywhere, operator
from tests.kube.tiers import Json, Refused, TierClient, condition, limited, spec, window

from tidegate.contract import keys

HUGE = 200_000
"""Characters; the API server takes 262,144 of annotations."""


def make(kubectl: Kubectl, namespace: str, name: str, **metadata: object) -> None:
    """Create a tier with more metadata than a name."""
    body = {"apiVersion": "tidegate.dev/v1alpha1", "kind": "RateLimitTier", "spec": limited(30)}
    kubectl("create", "--filename", "-", stdin=json.dumps(body | {"metadata": {"name": name, "namespace": namespace, **metadata}}))


def test_of_an_object_of_two_hundred_kilobytes_only_the_tier_reaches_the_regions(
    running: Program, watched: TierClient, regions: Regions, kubectl: Kubectl
) -> None:
    """What makes it huge are annotations, as tools write them; it is enforced, edited and reported like any other."""
    make(kubectl, watched.namespace, "huge", annotations={"example.com/notes": "x" * HUGE})
    everywhere(regions, "huge", 30)

    watched.edit("huge", **limited(40))

    everywhere(regions, "huge", 40)
    eventually(lambda: watched.is_ready("huge"), seconds=10)
    for region in regions:
        with Redis(port=region.valkey.port) as redis:
            assert len(redis.hget(keys.TIERS, "huge") or b"") < 2_000


@pytest.mark.parametrize(
    "huge",
    [
        spec(displayName="x" * HUGE),
        spec(windows=[window(name=f"w{number}") for number in range(HUGE // 40)]),
        spec(cache={"lane": "x" * HUGE}),
    ],
    ids=["text", "windows", "lane"],
)
def test_a_spec_of_two_hundred_kilobytes_is_refused_by_the_api_server(admitting: TierClient, huge: Json) -> None:
    assert len(json.dumps(huge)) > HUGE
    with pytest.raises(Refused):
        admitting.create("huge", huge, dry_run=True)


def test_a_tier_whose_deletion_somebody_elses_finalizer_holds_up_is_enforced_no_more(
    running: Program, watched: TierClient, regions: Regions, kubectl: Kubectl
) -> None:
    """Whoever deletes it means it. The status says so; neither an edit nor a new operator brings it back, and its name is free again."""
    make(kubectl, watched.namespace, "held", finalizers=["example.com/theirs"])
    everywhere(regions, "held", 30)
    eventually(lambda: watched.is_ready("held"), seconds=10)

    watched.delete("held")

    everywhere(regions, "held", None)
    eventually(lambda: condition(watched.read("held"), "Ready")["reason"] == "Deleting", seconds=5)
    told = watched.read("held")["status"]
    assert (told["activeGeneration"], told["regionsReady"], condition({"status": told}, "Programmed")["reason"]) == (0, "0/2", "Deleting")
    assert "example.com/theirs" in condition({"status": told}, "Ready")["message"]
    watched.edit("held", **limited(40))
    eventually(lambda: watched.read("held")["status"]["observedGeneration"] == watched.read("held")["metadata"]["generation"], seconds=5)
    settled = watched.versions()["held"]
    running.stop()
    running.start()
    watched.create("after-held", limited(30))
    everywhere(regions, "after-held", 30)
    assert watched.versions()["held"] == settled
    assert all("held" not in region.stored() for region in regions)
    patch = ("patch", "rlt/held", "--namespace", watched.namespace, "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')
    kubectl(*patch)
    watched.create("held", limited(50))
    everywhere(regions, "held", 50)


def held(valkey: Valkey, password: str = "") -> set[bytes]:
    """Names of the tiers in a Redis."""
    with Redis(port=valkey.port, password=password or None) as redis:
        return set(redis.hkeys(keys.TIERS))


def test_a_region_whose_password_is_wrong_holds_up_no_other_and_the_status_says_why(
    valkeys: Callable[..., Valkey], api: client.ApiClient, crd: Json, cluster: ControlPlane, tmp_path: Path
) -> None:
    """Neither the log nor the status tells a password; with the right one, for which the chart rolls the pod, the region catches up."""
    frankfurt, dublin, tiers = valkeys(), valkeys(), TierClient(api, make_namespace(api))
    with Redis(port=dublin.port) as redis:
        redis.config_set("requirepass", "right-password")
    with_password = [SimpleNamespace(url=f"redis://:{word}-password@127.0.0.1:{dublin.port}") for word in ("wrong", "right")]
    wrong, right = (
        [SimpleNamespace(name="frankfurt", valkey=frankfurt), SimpleNamespace(name="dublin", valkey=one)] for one in with_password
    )
    with operator(tmp_path, wrong, cluster.admin_kubeconfig, tiers.namespace) as program:  # type: ignore[arg-type]
        tiers.create("gold", limited(10))
        eventually(lambda: condition(tiers.read("gold"), "Degraded").get("reason") == "RegionUnreachable", seconds=20)

        assert "dublin: its Redis does not answer (AuthenticationError)" in condition(tiers.read("gold"), "Degraded")["message"]
        eventually(lambda: held(frankfurt) == {b"gold"}, seconds=5)
        assert "-password" not in program.log.read_text() + json.dumps(tiers.read("gold"))
    with operator(tmp_path, right, cluster.admin_kubeconfig, tiers.namespace):  # type: ignore[arg-type]
        eventually(lambda: held(dublin, "right-password") == {b"gold"}, seconds=20)


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("TIDEGATE_OPERATOR_REGIONS_FILE", "TIDEGATE_OPERATOR_REGIONS_FILE {missing}: No such file or directory"),
        ("TIDEGATE_OPERATOR_LANE_KEY_FILE", "TIDEGATE_OPERATOR_LANE_KEY_FILE {missing}: No such file or directory"),
    ],
)
def test_an_operator_whose_secret_lacks_a_key_ends_with_a_sentence_that_names_it(
    cluster: ControlPlane, lanes: dict[str, str], tmp_path: Path, variable: str, sentence: str
) -> None:
    """It does not run on with half of what it needs."""
    missing = str(tmp_path / "missing.key")
    with operator(tmp_path, [], cluster.admin_kubeconfig, "default", **{**lanes, variable: missing}) as program:
        (tmp_path / "regions.json").write_text('{"dublin": "redis://127.0.0.1:1"}')

        eventually(program.has_ended, seconds=20)

    assert sentence.format(missing=missing) in program.log.read_text()
    assert program.process is not None
    assert program.process.returncode != 0
