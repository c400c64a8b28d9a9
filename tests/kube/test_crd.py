"""The RateLimitTier definition on a real API server: its defaults, its descriptions, its status and its listing."""

from collections.abc import Iterator

from tests.kube.control_plane import Kubectl
from tests.kube.tiers import Json, TierClient, spec, window

NAME = "enterprise"
SINCE = "2026-11-25T00:00:00Z"
READY = {"type": "Ready", "status": "True", "reason": "Enforced", "message": "", "lastTransitionTime": SINCE}


def test_a_minimal_tier_gets_every_default(admitting: TierClient) -> None:
    """What a tier leaves out is filled in, and can be read back."""
    stored = admitting.create(NAME, spec(), dry_run=True)

    assert stored["spec"] == {
        "enforcement": "Enforce",
        "partitionBy": "Token",
        "windows": [window(unit="Requests")],
        "costs": [],
        "admission": {"weight": 1, "maxInFlight": 100, "queue": {"maxWait": "1s", "maxDepth": 100}},
        "cache": {"lane": "None", "ttl": "60s", "staleWhileRevalidate": "0s"},
        "idempotency": {"retention": "24h"},
        "degradation": {"onStoreLoss": "Local"},
    }


def test_the_definition_has_no_hidden_objection(crd: Json) -> None:
    """The server takes every schema that parses and tells in conditions what it thinks of it."""
    conditions = {condition["type"]: condition["status"] for condition in crd["status"]["conditions"]}

    assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_every_field_explains_itself(crd: Json) -> None:
    """`kubectl explain` has a sentence for each field."""
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    mute = [path for path, node in fields(root) if not node.get("description") and path != "metadata"]

    assert mute == []


def fields(node: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every named field of a schema, with its path."""
    for name, child in node.get("properties", {}).items():
        here = f"{path}.{name}".lstrip(".")
        yield here, child
        yield from fields(child, here)
        yield from fields(child.get("items", {}), f"{here}[]")


def test_the_status_is_written_apart_from_the_spec(tiers: TierClient) -> None:
    """Who edits a tier cannot claim that it is enforced, and who reports on it cannot edit it."""
    tiers.create(NAME, spec())

    reported = tiers.patch_status(NAME, {"activeGeneration": 1, "conditions": [READY]})
    edited = tiers.edit(NAME, displayName="Enterprise")

    assert reported["metadata"]["generation"] == 1
    assert edited["metadata"]["generation"] == 2
    assert edited["status"] == reported["status"]


def test_a_listing_shows_what_is_enforced(tiers: TierClient, kubectl: Kubectl) -> None:
    """`kubectl get rlt` answers: which tier, which generation, in how many regions, is it ready, and its lane."""
    tiers.create(NAME, spec(displayName="Enterprise"))
    tiers.patch_status(
        NAME, {"activeGeneration": 1, "regionsReady": "2/2", "conditions": [READY, {**READY, "type": "LaneReady", "status": "False"}]}
    )

    columns, row = kubectl("get", "rlt", "--output", "wide", "--namespace", tiers.namespace).splitlines()

    assert columns.split() == ["NAME", "DISPLAY", "ACTIVE", "REGIONS", "READY", "REASON", "LANE", "AGE"]
    assert row.split()[:-1] == [NAME, "Enterprise", "1", "2/2", "True", "Enforced", "False"]


def test_the_reason_is_left_to_the_wide_listing(tiers: TierClient, kubectl: Kubectl) -> None:
    """The short listing fits a terminal beside other resources of the category."""
    tiers.create(NAME, spec())

    columns = kubectl("get", "tidegate", "--namespace", tiers.namespace).splitlines()[0]

    assert "REASON" not in columns
