"""The API server and Tier.from_spec accept and refuse the same objects, and fill in the same defaults."""

from hypothesis import HealthCheck, given, settings
from tests.kube.tier_strategies import names, odd_names, specs, spoiled
from tests.kube.tiers import Json, Refused, TierClient, spec

from tidegate.contract.errors import InvalidTierError
from tidegate.contract.tier import Tier

# Both fixtures that the properties use last as long as the session.
on_a_server = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@settings(on_a_server, max_examples=150)
@given(name=names, spec=specs)
def test_a_valid_tier_means_the_same_to_both(name: str, spec: Json, admitting: TierClient) -> None:
    """Whether the server filled in the defaults or from_spec does, the tier is the same."""
    stored = admitting.create(name, spec, dry_run=True)

    assert Tier.from_spec(name, spec) == Tier.from_spec(name, stored["spec"])


@settings(on_a_server, max_examples=500)
@given(spec=spoiled())
def test_a_spoiled_spec_is_judged_alike_by_both(spec: object, admitting: TierClient) -> None:
    """What the server refuses never reaches a worker by another way, and nothing that it accepts is lost."""
    assert accepted_by_tier("gold", spec) == accepted_by_server(admitting, "gold", spec)


@settings(on_a_server, max_examples=50)
@given(name=names | odd_names)
def test_a_name_is_judged_alike_by_both(name: str, admitting: TierClient) -> None:
    """A tier's name is its identity, and both know the same names."""
    assert accepted_by_tier(name, spec()) == accepted_by_server(admitting, name, spec())


def accepted_by_tier(name: str, spec: object) -> bool:
    """Whether the contract takes it."""
    try:
        Tier.from_spec(name, spec)
    except InvalidTierError:
        return False
    return True


def accepted_by_server(admitting: TierClient, name: str, spec: object) -> bool:
    """Whether the API server takes it."""
    try:
        admitting.create(name, spec, dry_run=True)
    except Refused:
        return False
    return True
