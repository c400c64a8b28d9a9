"""Every rule of the RateLimitTier schema, tried on both sides of its bound by a real API server and by the contract."""

from typing import Any

import pytest
from tests.kube.tiers import Json, Refused, TierClient, spec, window

from tidegate.contract.errors import InvalidTierError
from tidegate.contract.tier import Tier

NAME = "enterprise"


def in_window(field: str, good: object, bad: object, message: str) -> Any:
    """A case for a field of a window."""
    good_window, bad_window = window(**{field: good}), window(**{field: bad})
    return case(f"windows.{field}", spec(windows=[good_window]), spec(windows=[bad_window]), message)


def in_cost(field: str, good: object, bad: object, message: str) -> Any:
    """A case for a field of a cost."""
    cost = {"path": "/v1/exports", "cost": 25}
    return case(f"costs.{field}", spec(costs=[{**cost, field: good}]), spec(costs=[{**cost, field: bad}]), message)


def in_spec(path: str, good: object, bad: object, message: str) -> Any:
    """A case for a field below the spec, at a dotted path."""
    return case(path, spec(**nested(path, good)), spec(**nested(path, bad)), message)


def nested(path: str, value: object) -> Json:
    """The value below the keys of a dotted path."""
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def case(name: str, good: object, bad: object, message: str) -> Any:
    """A spec that passes, one that doesn't, and what the server says about the second."""
    return pytest.param(good, bad, message, id=f"{name}: {message}")


MATCH, LONG, LEAST, MOST = "in body should match", "Too long", "greater than or equal to", "less than or equal to"
MANY, FEW, CHOICE = "Too many", "should have at least 1 items", "Unsupported value"
WINDOWS = [window(name=f"w{number}") for number in range(9)]
DEDICATED = {"lane": "Dedicated", "memory": "256Mi"}
OUT_OF_SIZE = "must be a size between 16Mi and 1024Gi"
NEEDLESS_MEMORY = "memory must be given when lane is Dedicated, and only then"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

RULES = [
    case("spec", spec(), {}, "spec.windows: Required value"),
    case("spec", spec(), spec(burst=1), 'unknown field "spec.burst"'),
    in_spec("displayName", "E" * 63, "E" * 64, LONG),
    in_spec("displayName", "E", "", "at least 1 chars long"),
    in_spec("enforcement", "Shadow", "Off", CHOICE),
    in_spec("partitionBy", "Tenant", "Address", CHOICE),
    in_spec("windows", WINDOWS[:8], WINDOWS, MANY),
    in_spec("windows", WINDOWS[:1], [], FEW),
    in_spec("windows", WINDOWS[:2], WINDOWS[:1] * 2, "Duplicate value"),
    in_window("name", "a" * 32, "a" * 33, LONG),
    in_window("name", "per-hour", "1h", MATCH),
    in_window("name", "h1", "h-", MATCH),
    in_window("limit", 1, 0, LEAST),
    in_window("limit", 9007199254740991, 9007199254740992, MOST),
    in_window("limit", 600.0, 600.5, "must be of type int64"),
    in_window("limit", 1, True, "must be of type int64"),
    in_window("period", "1h30m", "1d", MATCH),
    in_window("period", "1s", "1500ms", MATCH),
    in_window("period", "1s", "0s", "must be a duration between 1s and 744h"),
    in_window("period", "744h", "743h61m", "must be a duration between 1s and 744h"),
    in_window("unit", "ResponseBytes", "Bytes", CHOICE),
    in_window("unit", None, 1, "must be of type string"),
    in_spec("costs", [{"path": "/", "cost": 1}] * 16, [{"path": "/", "cost": 1}] * 17, MANY),
    in_cost("methods", METHODS, ["TRACE"], CHOICE),
    in_cost("methods", ["GET"], [], FEW),
    in_cost("methods", ["GET", "HEAD"], ["GET", "GET"], "Duplicate value"),
    in_cost("path", "/v1/records/{id}", "v1/records", MATCH),
    in_cost("path", "/" * 256, "/" * 257, LONG),
    in_cost("cost", 0, -1, LEAST),
    in_cost("cost", 1000000, 1000001, MOST),
    in_spec("admission.weight", 1, 0, LEAST),
    in_spec("admission.weight", 1000, 1001, MOST),
    in_spec("admission.maxInFlight", 1, 0, LEAST),
    in_spec("admission.maxInFlight", 10000, 10001, MOST),
    in_spec("admission.queue.maxWait", "0s", "soon", MATCH),
    in_spec("admission.queue.maxWait", "59s1000ms", "60001ms", "must be a duration of at most 60s"),
    in_spec("admission.queue.maxDepth", 0, -1, LEAST),
    in_spec("admission.queue.maxDepth", 100000, 100001, MOST),
    in_spec("cache.lane", "Shared", "Private", CHOICE),
    in_spec("cache", DEDICATED, {"lane": "Dedicated"}, NEEDLESS_MEMORY),
    in_spec("cache", {"lane": "Shared"}, {"lane": "Shared", "memory": "256Mi"}, NEEDLESS_MEMORY),
    in_spec("cache", {}, {"memory": "256Mi"}, NEEDLESS_MEMORY),
    in_spec("cache", DEDICATED, {**DEDICATED, "memory": "256MB"}, MATCH),
    in_spec("cache", DEDICATED, {**DEDICATED, "memory": ""}, MATCH),
    in_spec("cache", {**DEDICATED, "memory": "16Mi"}, {**DEDICATED, "memory": "15Mi"}, OUT_OF_SIZE),
    in_spec("cache", {**DEDICATED, "memory": "1024Gi"}, {**DEDICATED, "memory": "1025Gi"}, OUT_OF_SIZE),
    in_spec("cache.ttl", "1s", "0s", "must be a duration between 1s and 24h"),
    in_spec("cache.ttl", "24h", "24h1s", "must be a duration between 1s and 24h"),
    in_spec("cache.staleWhileRevalidate", "0s", "0", MATCH),
    in_spec("cache.staleWhileRevalidate", "24h", "24h1s", "must be a duration of at most 24h"),
    in_spec("idempotency.retention", "24h", "23h59m59s", "must be a duration between 24h and 744h"),
    in_spec("idempotency.retention", "744h", "745h", "must be a duration between 24h and 744h"),
    in_spec("degradation.onStoreLoss", "Closed", "Ignore", CHOICE),
    in_spec("degradation", {}, {"onLoss": "Open"}, 'unknown field "spec.degradation.onLoss"'),
]


@pytest.mark.parametrize(("good", "bad", "message"), RULES)
def test_each_rule_takes_its_good_spec_and_refuses_its_bad_one(good: Json, bad: Json, message: str, admitting: TierClient) -> None:
    """Every row of the schema has a bound that is tried on both sides."""
    admitting.create(NAME, good, dry_run=True)

    with pytest.raises(Refused) as refusal:
        admitting.create(NAME, bad, dry_run=True)

    assert message in str(refusal.value)


@pytest.mark.parametrize(("good", "bad", "message"), RULES)
def test_the_contract_draws_each_line_where_the_server_does(good: Json, bad: Json, message: str) -> None:
    """The same rows, tried on Tier.from_spec; test_crd_parity.py searches between them."""
    Tier.from_spec(NAME, good)

    with pytest.raises(InvalidTierError):
        Tier.from_spec(NAME, bad)


@pytest.mark.parametrize(("good", "bad", "message"), RULES)
def test_both_blame_the_same_field(good: Json, bad: Json, message: str, admitting: TierClient) -> None:
    """Words differ, but whoever edits a file is sent to the place that `kubectl apply` would have named, or below it."""
    with pytest.raises(Refused) as refusal:
        admitting.create(NAME, bad, dry_run=True)
    with pytest.raises(InvalidTierError) as violations:
        Tier.from_spec(NAME, bad)

    paths = {violation.path for violation in violations.value.violations}
    if message.startswith("unknown field"):
        assert {message} == {f'unknown field "{path}"' for path in paths}
    else:
        assert len(paths) == len(refusal.value.fields)
        assert all(path.startswith(tuple(refusal.value.fields)) for path in paths)


@pytest.mark.parametrize("name", ["a.b", "a" * 64, "-a"])
def test_a_name_that_no_token_could_carry_is_refused(name: str, admitting: TierClient) -> None:
    """Tokens name their tier by metadata.name, so it is a DNS label."""
    admitting.create("a" * 63, spec(), dry_run=True)

    with pytest.raises(Refused, match=r"metadata\.name must be a DNS label of at most 63 characters"):
        admitting.create(name, spec(), dry_run=True)
