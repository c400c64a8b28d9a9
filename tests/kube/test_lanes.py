"""Dedicated cache lanes on a real API server: what the operator makes, changes, removes and says, and with no more rights than that takes.

Nothing runs there, for there are no nodes: tests play the controller of StatefulSets, and start a lane's server as its pod would.
"""

import base64
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kopf
import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from tests.conftest import Valkey, valkey_binary
from tests.kube.chart import Helm
from tests.kube.conftest import make_namespace
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.lanes import KINDS, LaneObjects, dedicated, pod_of, states
from tests.kube.processes import Program, eventually
from tests.kube.rights import RIGHTS, rendered, sign_in, without
from tests.kube.stage import DEFAULT_TIER, Regions, operator
from tests.kube.tiers import Json, TierClient, condition, limited
from tests.ports import free_port
from tests.redis.cache_stage import Documents, cache_status, serving
from tests.redis.conftest import Issuer

from tidegate.contract import keys
from tidegate.contract.codec import decode_tier
from tidegate.contract.lanes import lane_password, lane_url
from tidegate_operator.desired import DesiredTier, desired_tier
from tidegate_operator.kubernetes_api import KubernetesApi
from tidegate_operator.lane_objects import LANE
from tidegate_operator.lane_site import LaneSite
from tidegate_operator.lanes import Lanes

NO_LANE = {"cache": {"lane": "None", "memory": None}}


@pytest.fixture
def found(kubectl: Kubectl, watched: TierClient) -> Iterator[LaneObjects]:
    """The lanes of the operator's namespace. A test's tiers are deleted after it, and what they own: nobody collects it here."""
    objects = LaneObjects(kubectl, watched.namespace)
    yield objects
    for name in watched.names() - {DEFAULT_TIER}:
        watched.delete(name)
    objects.run("delete", ",".join(KINDS), "--selector", LANE)


def published(region: Any, tier: str) -> str:
    """The address that a region's workers know."""
    with Redis(port=region.valkey.port) as redis:
        text = redis.hget(keys.TIERS, tier)
    return decode_tier(tier, text).lane if text else ""


def test_a_dedicated_lane_is_made_in_each_region_and_its_address_is_published_once(
    running: Program, watched: TierClient, regions: Regions, found: LaneObjects
) -> None:
    """All of it belongs to the tier, so that Kubernetes collects it; workers go on without the lane until it answers."""
    watched.create("made", dedicated())

    objects = eventually(lambda: found.made("made"), seconds=10)

    owner = {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "RateLimitTier",
        "name": "made",
        "uid": watched.read("made")["metadata"]["uid"],
        "controller": True,
    }
    assert [one["metadata"]["ownerReferences"] for one in objects] == [[owner]] * 8
    assert not [one for one in objects if "finalizers" in one["metadata"]]
    (address,) = {published(region, "made") for region in regions}
    for region in regions:
        service = found.one("made", "Service", region.name)
        assert lane_url(address, region=region.name) == f"redis://tidegate-lane@{service['metadata']['name']}:6379"


def test_only_the_api_pods_of_a_region_may_connect_to_its_lane_and_it_to_nobody(
    running: Program, watched: TierClient, found: LaneObjects, built: Callable[[str], Path], cluster: ControlPlane
) -> None:
    watched.create("alone", dedicated())
    eventually(lambda: found.made("alone"), seconds=10)
    (deployment,) = (
        one
        for one in Helm(built("helm"), cluster, found.namespace).render_kinds("Deployment")
        if one["metadata"]["name"].endswith("api-dublin")
    )

    policy = found.one("alone", "NetworkPolicy", "dublin")["spec"]

    pod = found.one("alone", "StatefulSet", "dublin")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= pod.items()
    assert found.one("alone", "Service", "dublin")["spec"]["selector"].items() <= pod.items()
    assert (policy["policyTypes"], policy.get("egress")) == (["Ingress", "Egress"], None)
    ((rule,), (port,)) = policy["ingress"][0]["from"], policy["ingress"][0]["ports"]
    assert rule == {"podSelector": {"matchLabels": deployment["spec"]["selector"]["matchLabels"]}}
    assert (port["port"], port["protocol"]) == (6379, "TCP")


def test_a_lanes_pod_is_admitted_where_pod_security_is_restricted(running: Program, watched: TierClient, found: LaneObjects) -> None:
    """And where a region has its zone, the lane is there too."""
    watched.create("admitted", dedicated())
    eventually(lambda: found.made("admitted"), seconds=10)
    strict = f"{found.namespace}-strict"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": strict, "labels": labels}}
    found.kubectl("apply", "--filename", "-", stdin=json.dumps(namespace))
    pod = pod_of(found.one("admitted", "StatefulSet", "dublin"), strict)

    admitted = found.kubectl("create", "--dry-run=server", "--output", "json", "--filename", "-", stdin=json.dumps(pod))

    (container,) = json.loads(admitted)["spec"]["containers"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"] == "52Mi"
    assert json.loads(admitted)["status"]["qosClass"] == "Burstable"


def test_the_status_says_which_lanes_are_ready(running: Program, watched: TierClient, found: LaneObjects) -> None:
    """Because the controller of StatefulSets said so, and as soon as it does."""
    watched.create("reported-lane", dedicated())
    eventually(lambda: states(watched.read("reported-lane")) == {"frankfurt": "Progressing", "dublin": "Progressing"}, seconds=10)
    found.play_controller("reported-lane", "frankfurt")
    eventually(lambda: states(watched.read("reported-lane")) == {"frankfurt": "Ready", "dublin": "Progressing"}, seconds=5)
    partial = condition(watched.read("reported-lane"), "LaneReady")

    found.play_controller("reported-lane", "dublin")

    found.run("wait", "rlt/reported-lane", "--for=condition=LaneReady", "--timeout=5s")
    assert (partial["status"], partial["reason"]) == ("False", "Progressing")
    assert partial["message"].startswith("dublin: ")
    assert watched.read("reported-lane")["status"]["problems"] == []
    found.play_controller("reported-lane", "dublin", ready=0)
    eventually(lambda: condition(watched.read("reported-lane"), "LaneReady")["status"] == "False", seconds=5)
    assert watched.is_ready("reported-lane")


def test_another_memory_rolls_the_lane_and_the_status_waits_for_it(running: Program, watched: TierClient, found: LaneObjects) -> None:
    watched.create("grown", dedicated("16Mi"))
    eventually(lambda: found.made("grown"), seconds=10)
    for region in ("frankfurt", "dublin"):
        found.play_controller("grown", region)
    eventually(lambda: condition(watched.read("grown"), "LaneReady").get("status") == "True", seconds=5)
    before = found.one("grown", "StatefulSet", "dublin")

    watched.edit("grown", **dedicated("32Mi"))

    eventually(lambda: condition(watched.read("grown"), "LaneReady")["status"] == "False", seconds=5)
    after = found.one("grown", "StatefulSet", "dublin")
    (container,) = after["spec"]["template"]["spec"]["containers"]
    assert "32mb" in container["args"]
    assert container["resources"]["limits"]["memory"] == "72Mi"
    assert (after["metadata"]["uid"], after["metadata"]["generation"]) == (before["metadata"]["uid"], before["metadata"]["generation"] + 1)
    for region in ("frankfurt", "dublin"):
        found.play_controller("grown", region)
    eventually(lambda: condition(watched.read("grown"), "LaneReady")["status"] == "True", seconds=5)


def test_a_tier_that_wants_no_lane_any_more_has_none_and_others_keep_theirs(
    running: Program, watched: TierClient, regions: Regions, found: LaneObjects
) -> None:
    for name in ("leaving", "staying"):
        watched.create(name, dedicated())
    eventually(lambda: found.made("leaving") and found.made("staying"), seconds=10)

    watched.edit("leaving", **NO_LANE)

    eventually(lambda: not found.of("leaving"), seconds=10)
    eventually(lambda: not condition(watched.read("leaving"), "LaneReady"), seconds=5)
    assert states(watched.read("leaving")) == {}
    assert {published(region, "leaving") for region in regions} == {""}
    assert found.made("staying")


def test_a_tier_that_is_made_again_has_another_lane(running: Program, watched: TierClient, found: LaneObjects) -> None:
    """It waits for nothing of its predecessor's, whose objects the garbage collector has yet to find."""
    watched.create("again", dedicated())
    first = {one["metadata"]["name"] for one in eventually(lambda: found.made("again"), seconds=10)}
    watched.delete("again")

    watched.create("again", dedicated())

    uid = watched.read("again")["metadata"]["uid"]
    eventually(lambda: len([one for one in found.of("again") if one["metadata"]["ownerReferences"][0]["uid"] == uid]) == 8, seconds=10)
    second = {one["metadata"]["name"] for one in found.of("again")} - first
    assert len(second) == 2


def test_what_was_changed_or_removed_by_hand_is_put_right(
    running: Program, watched: TierClient, regions: Regions, found: LaneObjects
) -> None:
    """The StatefulSet at once, as it is watched; the rest at the next look, at the latest after a restart."""
    watched.create("tampered", dedicated())
    eventually(lambda: found.made("tampered"), seconds=10)
    name = found.one("tampered", "StatefulSet", "dublin")["metadata"]["name"]

    found.run("scale", f"statefulset/{name}", "--replicas=0")
    eventually(lambda: found.one("tampered", "StatefulSet", "dublin")["spec"]["replicas"] == 1, seconds=5)
    found.run("delete", f"statefulset/{name}")
    eventually(lambda: found.made("tampered"), seconds=5)
    running.stop()
    found.run("delete", f"service/{name}")
    found.run("patch", f"networkpolicy/{name}", "--type=json", "--patch", '[{"op": "remove", "path": "/spec/ingress"}]')
    running.start()

    eventually(lambda: found.made("tampered"), seconds=20)
    eventually(lambda: found.one("tampered", "NetworkPolicy", "dublin")["spec"].get("ingress"), seconds=5)


def test_a_restarted_operator_changes_nothing_of_a_lane_that_is_right(running: Program, watched: TierClient, found: LaneObjects) -> None:
    """It takes the StatefulSets' word for their state, and removes what nobody wanted meanwhile."""
    watched.create("kept", dedicated())
    watched.create("dropped", dedicated())
    eventually(lambda: found.made("kept") and found.made("dropped"), seconds=10)
    for region in ("frankfurt", "dublin"):
        found.play_controller("kept", region)
    eventually(lambda: condition(watched.read("kept"), "LaneReady").get("status") == "True", seconds=5)
    before = {one["metadata"]["name"] + one["kind"]: one["metadata"]["resourceVersion"] for one in found.of("kept")}
    running.stop()
    watched.edit("dropped", **NO_LANE)

    running.start()

    eventually(lambda: not found.of("dropped"), seconds=20)
    watched.edit("kept", displayName="Looked at again")
    eventually(lambda: watched.is_ready("kept"), seconds=10)
    assert condition(watched.read("kept"), "LaneReady")["status"] == "True"
    assert {one["metadata"]["name"] + one["kind"]: one["metadata"]["resourceVersion"] for one in found.of("kept")} == before


def test_another_key_rolls_no_lane_whose_secret_cannot_be_written(
    valkey: Valkey, kubectl: Kubectl, cluster: ControlPlane, api: Any, crd: Json, built: Any, lanes: Any, tmp_path: Path
) -> None:
    """A server reads its Secret once: one that was rolled before would refuse its workers, also when the Secret is there at last."""
    tiers, region = TierClient(api, make_namespace(api)), SimpleNamespace(name="dublin", valkey=valkey)
    found, rights = LaneObjects(kubectl, tiers.namespace), rendered(built, cluster, tiers.namespace)
    tiers.create("keyed", dedicated())
    with operator(tmp_path, [region], sign_in(kubectl, cluster, tiers.namespace, rights), tiers.namespace, **lanes):
        eventually(lambda: found.made("keyed"), seconds=20)
    before = found.one("keyed", "StatefulSet", "dublin")["spec"]
    key = tmp_path / "lane.key"
    key.write_text("another-key-of-at-least-thirty-two-bytes")
    other = {**lanes, "TIDEGATE_OPERATOR_LANE_KEY_FILE": str(key)}

    halted = sign_in(kubectl, cluster, tiers.namespace, without(rights, "secrets", "patch"))
    with operator(tmp_path, [region], halted, tiers.namespace, **other) as program:
        # In either region.
        eventually(lambda: program.log.read_text().count("cache lane not made") >= 2, seconds=20)
    halfway = found.one("keyed", "StatefulSet", "dublin")["spec"]
    with operator(tmp_path, [region], sign_in(kubectl, cluster, tiers.namespace, rights), tiers.namespace, **other):
        eventually(lambda: found.one("keyed", "StatefulSet", "dublin")["spec"] != before, seconds=20)

    assert halfway == before


@pytest.mark.parametrize(
    ("resource", "made"),
    [
        ("statefulsets", set()),
        ("networkpolicies", {"StatefulSet"}),
        ("services", {"StatefulSet", "NetworkPolicy"}),
        ("secrets", {"StatefulSet", "NetworkPolicy", "Service"}),
    ],
)
def test_what_an_operator_made_of_a_lane_before_it_died_is_removed_by_the_next_if_nobody_wants_it_any_more(
    valkey: Valkey,
    kubectl: Kubectl,
    cluster: ControlPlane,
    api: Any,
    crd: Json,
    built: Any,
    lanes: Any,
    tmp_path: Path,
    resource: str,
    made: set[str],
) -> None:
    """It died right before it would have made one of the four: it had no right to, so that the others are as it left them."""
    tiers, region = TierClient(api, make_namespace(api)), SimpleNamespace(name="dublin", valkey=valkey)
    rights = rendered(built, cluster, tiers.namespace)
    halted = sign_in(kubectl, cluster, tiers.namespace, without(rights, resource, "create"))
    tiers.create("half-made", dedicated())
    with operator(tmp_path, [region], halted, tiers.namespace, **lanes) as program:
        eventually(lambda: "cache lane not made" in program.log.read_text(), seconds=20)
        program.kill()
    tiers.edit("half-made", **NO_LANE)
    found = LaneObjects(kubectl, tiers.namespace)
    before = {one["kind"] for one in found.of("half-made")}

    signed_in = sign_in(kubectl, cluster, tiers.namespace, rights)
    with operator(tmp_path, [region], signed_in, tiers.namespace, **lanes):
        eventually(lambda: tiers.read("half-made").get("status", {}).get("observedGeneration") == 2, seconds=20)
        eventually(lambda: not found.of("half-made"), seconds=10)

    assert before == made


def test_an_operator_that_makes_no_lanes_says_so_and_needs_no_right_to_them(
    valkey: Valkey, kubectl: Kubectl, cluster: ControlPlane, api: Any, crd: Json, tmp_path: Path, built: Any
) -> None:
    """`cache.dedicated.enabled=false`."""
    tiers = TierClient(api, make_namespace(api))
    rights = [one for one in rendered(built, cluster, tiers.namespace, "--set", "cache.dedicated.enabled=false") if one["kind"] in RIGHTS]
    signed_in = sign_in(kubectl, cluster, tiers.namespace, rights)
    with operator(tmp_path, [SimpleNamespace(name="dublin", valkey=valkey)], signed_in, tiers.namespace):
        tiers.create("unserved", dedicated())

        eventually(lambda: tiers.read("unserved").get("status", {}).get("problems"), seconds=20)

    status = tiers.read("unserved")["status"]
    assert [(problem["path"], problem["reason"]) for problem in status["problems"]] == [("spec.cache.lane", "NotEnforced")]
    assert states({"status": status}) == {}
    assert not LaneObjects(kubectl, tiers.namespace).of("unserved")
    assert [rule["resources"] for one in rights if one["kind"] == "Role" for rule in one["rules"]] == [
        ["ratelimittiers"],
        ["ratelimittiers/status"],
    ]


# --- rights ------------------------------------------------------------------------------------------------------------------

NEEDED = [
    ("statefulsets", "create"),
    ("statefulsets", "patch"),
    ("statefulsets", "delete"),
    ("services", "create"),
    ("services", "patch"),
    ("services", "delete"),
    ("secrets", "create"),
    ("secrets", "patch"),
    ("secrets", "delete"),
    ("networkpolicies", "create"),
    ("networkpolicies", "patch"),
    ("networkpolicies", "delete"),
]
WATCHED = [("statefulsets", "list"), ("statefulsets", "watch")]


def tier(cache: Json, generation: int) -> DesiredTier:
    """A tier as the operator reads it."""
    return desired_tier("restricted", "00000000-0000-4000-8000-000000000000", generation, limited(1) | {"cache": cache})


@pytest.mark.parametrize(("resource", "verb"), [("", ""), *NEEDED], ids=lambda part: part or "none")
async def test_each_right_is_needed_to_make_change_and_remove_a_lane(
    kubectl: Kubectl, cluster: ControlPlane, api: Any, built: Any, lanes: Mapping[str, str], resource: str, verb: str
) -> None:
    """Without any single one a lane cannot be made, or is not gone; with all of them nothing is refused."""
    namespace = make_namespace(api)
    signed_in = sign_in(kubectl, cluster, namespace, without(rendered(built, cluster, namespace), resource, verb))
    token = yaml.safe_load(signed_in.read_text())["users"][0]["user"]["token"]
    connection = kopf.ConnectionInfo(server=cluster.url, ca_path=str(cluster.authority), token=token)
    kubernetes = KubernetesApi(lambda: connection, namespace)
    lanes_of = Lanes(kubernetes, LaneSite.read(lanes["TIDEGATE_OPERATOR_LANES"], source=""), b"k" * 32)

    made = await lanes_of.keep(tier({"lane": "Dedicated", "memory": "16Mi"}, 1))
    removed = await lanes_of.keep(tier({"lane": "None"}, 2))
    await kubernetes.aclose()

    left = LaneObjects(kubectl, namespace).of("restricted")
    refusals = [state.message for state in made.lanes.values() if state.state == "Failed"]
    assert made.is_done is (verb in ("", "delete"))
    assert all(f"cannot {verb} resource" in refusal and f"{resource}/" in refusal for refusal in refusals)
    assert len(refusals) == (0 if made.is_done else 2)
    assert removed.is_done is (verb != "delete")
    assert bool(left) is (verb == "delete")


@pytest.mark.parametrize(("resource", "verb"), WATCHED)
def test_the_state_of_lanes_cannot_be_told_without_the_right_to_watch_them(
    valkey: Valkey,
    kubectl: Kubectl,
    cluster: ControlPlane,
    api: Any,
    crd: Json,
    built: Any,
    lanes: Any,
    tmp_path: Path,
    resource: str,
    verb: str,
) -> None:
    tiers = TierClient(api, make_namespace(api))
    signed_in = sign_in(kubectl, cluster, tiers.namespace, without(rendered(built, cluster, tiers.namespace), resource, verb))
    with operator(tmp_path, [SimpleNamespace(name="dublin", valkey=valkey)], signed_in, tiers.namespace, **lanes) as program:
        eventually(lambda: f'cannot {verb} resource "{resource}"' in program.log.read_text().replace("\\", ""), seconds=30)


def test_the_rights_to_lanes_are_those_and_no_others(built: Any, cluster: ControlPlane) -> None:
    """No wildcard, nothing cluster-wide, and no Secret can be read."""
    (role,) = (one for one in rendered(built, cluster, "default") if one["kind"] == "Role")

    granted = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert granted == {*NEEDED, *WATCHED, ("ratelimittiers", "list"), ("ratelimittiers", "watch"), ("ratelimittiers/status", "patch")}


# --- a server as the pod runs it ---------------------------------------------------------------------------------------------


@contextmanager
def lane_server(stateful_set: Json, secret: Json, folder: Path) -> Iterator[tuple[Program, int]]:
    """The server of a lane, with the command, arguments and users of its pod; and its port."""
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    users, port = folder / "valkey.conf", free_port()
    users.write_bytes(base64.b64decode(secret["data"]["valkey.conf"]))
    program, mounted = container["command"]
    assert (program, mounted) == ("valkey-server", "/etc/valkey/valkey.conf")
    command = [valkey_binary(), str(users), *container["args"], "--port", str(port), "--bind", "127.0.0.1"]
    with Program(command, folder / "lane.log") as server:
        server.wait_until(lambda: is_listening(port), seconds=10)
        yield server, port


def is_listening(port: int) -> bool:
    """What the pod's probes ask."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def resident_mebibytes(server: Program) -> float:
    """Memory of the process."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


async def test_a_worker_is_served_from_the_lane_that_the_objects_make(
    running: Program,
    watched: TierClient,
    regions: Regions,
    found: LaneObjects,
    lanes: Mapping[str, str],
    valkeys: Callable[..., Valkey],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the address that was published and the password that follows from the key; what the cluster's DNS does is all that is put in."""
    watched.create("served", dedicated())
    eventually(lambda: found.made("served"), seconds=10)
    stateful_set, secret = (found.one("served", kind, "dublin") for kind in ("StatefulSet", "Secret"))
    service, resolve = found.one("served", "Service", "dublin")["metadata"]["name"], socket.getaddrinfo
    store, issuer = valkeys("--appendonly", "yes", "--appendfsync", "always"), Issuer(tmp_path / "keys")
    with lane_server(stateful_set, secret, tmp_path) as (_, port):
        names = {service: ("127.0.0.1", port)}
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, *rest, **more: resolve(*names.get(host, (host, port)), *rest, **more))
        settings = {"TIDEGATE_LANE_KEY_FILE": lanes["TIDEGATE_OPERATOR_LANE_KEY_FILE"]}
        async with serving(issuer, regions[1].valkey.url, store.url, Documents(), **settings) as worker:
            token = worker.token("served")
            answers = [await worker.get(token=token) for _ in range(2)]

    assert [cache_status(answer)[0] for answer in answers] == ["Dedicated", "Dedicated"]
    assert cache_status(answers[0])[1]["stored"] is True
    assert cache_status(answers[1])[1]["hit"] is True


def test_a_lane_evicts_within_the_memory_of_its_pod_and_opens_to_its_user_alone(
    running: Program, watched: TierClient, found: LaneObjects, lanes: Mapping[str, str], tmp_path: Path
) -> None:
    """Ten times what it holds, of entries of all sizes: none is refused, and the pod is not ended for its memory."""
    watched.create("flooded", dedicated("16Mi"))
    eventually(lambda: found.made("flooded"), seconds=10)
    stateful_set, secret = (found.one("flooded", kind, "dublin") for kind in ("StatefulSet", "Secret"))
    document = desired_tier("flooded", watched.read("flooded")["metadata"]["uid"], 1, dedicated()).document
    assert document is not None
    password = lane_password(Path(lanes["TIDEGATE_OPERATOR_LANE_KEY_FILE"]).read_bytes(), document)
    (container,) = stateful_set["spec"]["template"]["spec"]["containers"]
    with lane_server(stateful_set, secret, tmp_path) as (server, port):
        with Redis(port=port) as nobody, pytest.raises(AuthenticationError):
            nobody.ping()
        with Redis(port=port, username="tidegate-lane", password=password) as redis:
            with pytest.raises(NoPermissionError):
                redis.config_get("maxmemory")
            sizes = [512, 8_192, 65_536, 1_048_576]
            written = 0
            while written < 160 * 2**20:
                size = sizes[written % len(sizes)]
                redis.hset(f"tg:1:cache:t:{written}", "variant", b"x" * size)
                written += size + 1
            kept = sum(1 for _ in redis.scan_iter(match="tg:1:cache:*", count=1_000))
        memory = resident_mebibytes(server)

    assert 0 < kept < 160 * 2**20 / 8_192
    assert memory < float(container["resources"]["limits"]["memory"].removesuffix("Mi"))
