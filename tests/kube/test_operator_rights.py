"""Every right that the chart gives the operator over tiers and its lease is needed; those over lanes are in test_lanes.py."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Valkey
from tests.kube.conftest import make_namespace
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import eventually
from tests.kube.rights import rendered, sign_in, without
from tests.kube.stage import operator
from tests.kube.tiers import Json, TierClient, limited

TWO = ("--set", "operator.replicas=2", "--set", "cache.dedicated.enabled=false")
LEASE = "tidegate-operator"
TIERS = [("ratelimittiers", "list"), ("ratelimittiers", "watch"), ("ratelimittiers/status", "patch")]
LEASES = [("leases", "create"), ("leases", "get"), ("leases", "patch")]


@pytest.mark.parametrize(("resource", "verb"), [*TIERS, *LEASES])
def test_an_operator_that_lacks_a_right_says_which(
    valkey: Valkey,
    kubectl: Kubectl,
    cluster: ControlPlane,
    api: Any,
    crd: Json,
    built: Callable[[str], Path],
    tmp_path: Path,
    resource: str,
    verb: str,
) -> None:
    """Without it a tier is not taken up, not followed, not reported, or no operator acts for long."""
    tiers = TierClient(api, make_namespace(api))
    signed_in = sign_in(kubectl, cluster, tiers.namespace, without(rendered(built, cluster, tiers.namespace, *TWO), resource, verb))
    regions = [SimpleNamespace(name="dublin", valkey=valkey)]
    with operator(tmp_path, regions, signed_in, tiers.namespace, TIDEGATE_OPERATOR_LEASE=LEASE) as program:
        tiers.create("gold", limited(10))

        eventually(lambda: f'cannot {verb} resource "{resource}"' in program.log.read_text().replace("\\", ""), seconds=20)

    assert not tiers.read("gold").get("status") or (resource, verb) in [("ratelimittiers", "watch"), ("leases", "patch")]


def test_the_rights_of_two_operators_are_those_and_no_others(built: Callable[[str], Path], cluster: ControlPlane) -> None:
    """No wildcard, and nothing cluster-wide."""
    rights = rendered(built, cluster, "default", *TWO)

    (role,) = (one for one in rights if one["kind"] == "Role")
    assert {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]} == {*TIERS, *LEASES}
    assert [rule.get("resourceNames") for rule in role["rules"] if rule["resources"] == ["leases"]] == [None, [LEASE]]
