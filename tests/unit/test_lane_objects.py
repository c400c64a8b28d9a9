"""The objects of a dedicated lane: names, owner, memory, users; the API server's own judgement of them is in tests/kube/test_lanes.py."""

import base64
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.contract.codec import TierDocument
from tidegate.contract.lanes import lane_password, lane_url
from tidegate.contract.tier import NAME_PATTERN, Tier
from tidegate_operator.errors import SettingsError
from tidegate_operator.lane_objects import LaneOrder, lane_address
from tidegate_operator.lane_site import LaneRegion, LaneSite
from tidegate_operator.lane_state import seen_lane

SECRET = b"k" * 32
names = st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda name: len(name) <= 63)
regions = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
uids = st.uuids().map(str)


def document(name: str = "enterprise", uid: str = "a", memory: str = "256Mi") -> TierDocument:
    windows = [{"name": "minute", "limit": 10, "period": "1m"}]
    return TierDocument(Tier.from_spec(name, {"windows": windows, "cache": {"lane": "Dedicated", "memory": memory}}), uid, 1)


def site(*regions: str, release: str = "tidegate", resources: dict[str, Any] | None = None) -> LaneSite:
    clients = {"app.kubernetes.io/component": "api"}
    container = {"image": "valkey", "resources": resources or {}}
    return LaneSite({"app.kubernetes.io/instance": release}, container, {region: LaneRegion(clients, {}) for region in regions})


def order(tier: TierDocument | None = None, region: str = "frankfurt", release: str = "tidegate", **options: Any) -> LaneOrder:
    return LaneOrder(tier or document(), region, site(region, release=release, **options), SECRET)


def stateful_set(wanted: LaneOrder) -> Any:
    return wanted.objects()[-1]


@given(names, uids, regions)
def test_a_name_is_a_label_that_leaves_room_for_that_of_a_revision(name: str, uid: str, region: str):
    """A StatefulSet's pods have its name and a hash of eleven characters in one label of 63; a Service's begins with a letter."""
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", order(document(name, uid), region).name)


@given(st.sets(st.tuples(names, uids, regions, st.sampled_from(["tidegate", "other"])), min_size=2, max_size=20))
def test_no_two_lanes_share_a_name(lanes: set[tuple[str, str, str, str]]):
    """Also where a tier and a region read together as another tier and another region do."""
    by_object = {(uid, region, release): (name, uid, region, release) for name, uid, region, release in lanes}

    assert len({order(document(name, uid), region, release).name for name, uid, region, release in by_object.values()}) == len(by_object)


def test_a_tier_and_a_region_are_not_taken_for_others_that_read_alike():
    assert order(document("gold-eu", "a"), "west").name != order(document("gold", "b"), "eu-west").name


@given(names, uids, regions)
def test_the_published_address_leads_to_the_service_in_every_region(name: str, uid: str, region: str):
    tier = document(name, uid)
    address = lane_address(site(region), tier)

    assert lane_url(address, region=region) == f"redis://tidegate-lane@{order(tier, region).objects()[1]['metadata']['name']}:6379"
    assert "{region}" in address


def test_everything_belongs_to_the_tier():
    """Kubernetes collects it with its tier. Nothing blocks the tier's own deletion."""
    for manifest in order().objects():
        assert manifest["metadata"]["ownerReferences"] == [
            {"apiVersion": "tidegate.dev/v1alpha1", "kind": "RateLimitTier", "name": "enterprise", "uid": "a", "controller": True}
        ]


def test_the_pod_comes_after_what_it_reads_and_who_may_connect():
    assert [manifest["kind"] for manifest in order().objects()] == ["NetworkPolicy", "Service", "Secret", "StatefulSet"]


@pytest.mark.parametrize(
    ("asked", "maxmemory", "pod"), [("16Mi", "16mb", "52Mi"), ("256Mi", "256mb", "352Mi"), ("4Gi", "4096mb", "5152Mi")]
)
def test_the_pod_has_the_memory_asked_for_and_the_headroom_and_no_more(asked: str, maxmemory: str, pod: str):
    wanted = order(document(memory=asked), resources={"requests": {"cpu": "100m"}})
    (container,) = stateful_set(wanted)["spec"]["template"]["spec"]["containers"]
    arguments = dict(zip(container["args"][::2], container["args"][1::2], strict=True))

    assert (arguments["--maxmemory"], arguments["--maxmemory-policy"]) == (maxmemory, "allkeys-lfu")
    assert (arguments["--save"], arguments["--appendonly"]) == ("", "no")
    assert container["resources"] == {"requests": {"cpu": "100m", "memory": pod}, "limits": {"memory": pod}}


def test_the_objects_hold_a_hash_of_the_password_alone():
    """Workers derive it, and need no Secret of the lane's."""
    wanted = order()
    password = lane_password(SECRET, wanted.document)
    users = base64.b64decode(wanted.objects()[2]["data"]["valkey.conf"]).decode()

    assert password not in f"{wanted.objects()}{users}"
    assert f"user tidegate-lane reset on #{hashlib.sha256(password.encode()).hexdigest()} ~tg:1:cache:* " in users
    assert users.startswith("user default reset\n")


@pytest.mark.parametrize("changed", [document(memory="512Mi"), document(uid="b")])
def test_another_memory_or_another_password_is_another_pod(changed: TierDocument):
    """That is what rolls it."""
    assert stateful_set(order(changed))["spec"]["template"] != stateful_set(order())["spec"]["template"]


def test_an_edit_that_says_nothing_of_the_cache_changes_no_object():
    edited = TierDocument(Tier.from_spec("enterprise", {**document().tier.to_spec(), "displayName": "Changed"}), "a", 2)

    assert order(edited).objects() == order().objects()


@pytest.mark.parametrize(
    ("generation", "status", "is_ready"),
    [
        (1, None, False),
        (1, {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1}, True),
        (2, {"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1}, False),
        (2, {"observedGeneration": 2, "readyReplicas": 1}, False),
        (2, {"observedGeneration": 2, "updatedReplicas": 1}, False),
    ],
)
def test_a_lane_is_ready_when_the_pod_of_the_newest_change_is(generation: int, status: Any, is_ready: bool):
    """While a change rolls, the pod that is ready is the old one."""
    body = stateful_set(order())
    body = body | {"metadata": body["metadata"] | {"uid": "a", "generation": generation}, "status": status}

    assert seen_lane(body).is_ready is is_ready


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"labels": {}, "container": {}, "regions": {"' + "r" * 21 + '": {"clients": {}, "pod": {}}}}']
)
def test_a_site_that_cannot_be_read_is_refused_with_the_name_of_its_variable(text: str):
    with pytest.raises(SettingsError, match=r"^TIDEGATE_OPERATOR_LANES: "):
        LaneSite.read(text, source="TIDEGATE_OPERATOR_LANES")
