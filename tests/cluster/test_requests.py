"""What a customer meets at the pods of a plain installation."""

import uuid

import pytest
from tests.cluster.release import Release

BURST = 10


def test_a_customer_over_the_limit_is_told_so(release: Release) -> None:
    """The free sample tier lets ten requests pass in ten seconds; the next gets 429, with the time to wait."""
    with release.region("frankfurt", "free", tenant="over-the-limit") as customer:
        answers = [customer.get("/v1/credits") for _ in range(BURST + 1)]

    assert [answer.status for answer in answers] == [200] * BURST + [429]
    # A window is over when the part in which its first request came is.
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 11


def test_a_purchase_that_is_sent_again_to_another_region_is_replayed(release: Release) -> None:
    """The same bytes, and charged once."""
    key, order = f"order-{uuid.uuid4()}", {"amount": 500}
    with release.region("frankfurt", "pro", tenant="buyer") as here, release.region("dublin", "pro", tenant="buyer") as there:
        first = here.post("/v1/credits/purchases", order, key)
        again = there.post("/v1/credits/purchases", order, key)
        balance = there.get("/v1/credits").json()["balance"]

    assert (first.status, first.region, again.region) == (201, "frankfurt", "dublin")
    assert (again.status, again.body, again.headers.get("idempotent-replayed")) == (201, first.body, "true")
    assert balance == order["amount"]


@pytest.mark.parametrize("tier", ["free", "pro", "enterprise"])
def test_a_customer_sees_its_tier(release: Release, tier: str) -> None:
    """In both regions alike."""
    seen = []
    for region in ("frankfurt", "dublin"):
        with release.region(region, tier, tenant="curious") as customer:
            seen.append(customer.get("/v1/usage").json()["tier"])

    assert seen == [tier, tier]


def test_what_a_customer_has_used_is_looked_at_as_documented(release: Release) -> None:
    """By the user of support, as a worker's may not look for identities."""
    with release.region("frankfurt", "free", tenant="watched") as customer:
        answers = [customer.get("/v1/credits").status for _ in range(3)]

    assert answers == [200] * 3
    assert release.used("frankfurt", "free", tenant="watched") == [3, 3]


def test_the_namespace_refuses_a_pod_that_is_not_restricted(release: Release) -> None:
    """So what runs in it is."""
    refused = release.kubectl("run", "careless", f"--image={release.api_image}", "--dry-run=server", check=False)

    assert refused == ""
    assert {pod["status"]["phase"] for component in ("api", "redis", "store", "operator") for pod in release.pods(component)} == {"Running"}
