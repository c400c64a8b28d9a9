"""What a request weighs under a tier."""

import pytest

from tidegate.contract.tier import Tier, Unit
from tidegate.limits import policy
from tidegate.limits.decision import Amounts
from tidegate.limits.policy import policy_of


def tier(**spec: object) -> Tier:
    return Tier.from_spec("pro", {"windows": [{"name": "minute", "limit": 10, "period": "1m"}], **spec})


@pytest.mark.parametrize(
    ("method", "path", "cost"),
    [
        ("POST", "/v1/exports", 25),
        ("PUT", "/v1/exports", 3),
        ("GET", "/v1/records/{record_id}", 0),
        ("GET", "/v1/usage", 1),
        ("GET", "/v1/search", 9),
        ("HEAD", "/v1/search", 9),
        ("HEAD", "/v1/list", 2),
        ("GET", "/v1/list", 5),
    ],
)
def test_the_first_cost_rule_that_matches_counts(method: str, path: str, cost: int):
    rules = [
        {"methods": ["POST"], "path": "/v1/exports", "cost": 25},
        {"path": "/v1/exports", "cost": 3},
        {"path": "/v1/exports", "cost": 4},
        {"path": "/v1/records/{record_id}", "cost": 0},
        {"methods": ["GET"], "path": "/v1/search", "cost": 9},
        {"methods": ["HEAD"], "path": "/v1/list", "cost": 2},
        {"methods": ["GET"], "path": "/v1/list", "cost": 5},
    ]

    assert policy_of(tier(costs=rules)).cost(method, path) == cost


def test_each_unit_asks_for_its_own_amount():
    """Response bytes need room for one and charge nothing yet (VEC-2); a charge afterwards checks nothing."""
    request, response = Amounts(cost=25, request_bytes=7), Amounts(response_bytes=900)

    assert [request.of(unit) for unit in Unit] == [(1, 1), (25, 25), (7, 7), (1, 0)]
    assert [response.of(unit) for unit in Unit] == [(0, 0), (0, 0), (0, 0), (0, 900)]


def test_a_request_above_a_whole_limit_is_known_without_asking():
    units = ["Requests", "Cost", "RequestBytes", "ResponseBytes"]
    held = policy_of(tier(windows=[{"name": unit.lower(), "limit": 10, "period": "1s", "unit": unit} for unit in units]))

    assert held.exceeded_by(Amounts(10, 10)) == ()
    assert held.exceeded_by(Amounts(11, 10)) == ("cost",)
    assert held.exceeded_by(Amounts(11, 11)) == ("cost", "requestbytes")


def test_policies_are_made_once_a_tier_and_never_pile_up():
    tiers = [tier() for _ in range(policy.CAPACITY + 1)]
    first = policy_of(tiers[0])

    assert policy_of(tiers[0]) is first
    assert all(policy_of(each).tier is each for each in tiers)
    assert len(policy._policies) <= policy.CAPACITY
