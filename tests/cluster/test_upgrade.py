"""From the chart of the release before to this one and back, under load: what customers have is theirs on the way.

The images are of this checkout all along, as none of an earlier release is kept.
"""

import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from tests.cluster.conftest import Figures
from tests.cluster.images import NEXT, chart_values, reference
from tests.cluster.notes import paste
from tests.cluster.release import Release
from tests.cluster.traffic import traffic
from tests.kube.chart import CHART, KEPT, ROOT
from tests.kube.processes import eventually
from tests.kube.tiers import Json, limited

from tidegate.local.client import Client

REGIONS = ("frankfurt", "dublin")
LIMIT = 3
ORDER = {"amount": 900}
SERVERS = ("redis", "cache", "store")
COLUMN = {"name": "Weight", "type": "integer", "jsonPath": ".spec.admission.weight"}


@dataclass(frozen=True)
class Belongings:
    """What an upgrade must leave as it is.

    Args:
        tiers: The uid and spec of each, by name.
        secrets: What the chart generated: keys of customers' usage and results, and passwords.
        servers: Ids of the servers' pods; those of a region forget usage when they are restarted.
        refusals: What the customer who has used up its limit meets in each region.
        purchase: What the retry of a purchase is answered, and whether that is a replay.
    """

    tiers: dict[str, tuple[str, Json]]
    secrets: Json
    servers: set[str]
    refusals: list[int]
    purchase: tuple[int, bytes, str | None]


@pytest.fixture(scope="module")
def earlier(release: Release) -> Iterator[Release]:
    """The release as the earlier chart makes it; at the end it is this chart's again."""
    release.helm.uninstall()
    release.helm.install(*release.trusted, "--set-string", tags(), chart=KEPT)
    if "small" not in release.tiers.names():
        release.tiers.create("small", limited(LIMIT))
    release.wait_until_ready()
    eventually(release.tiers.all_ready, seconds=60)
    yield release
    release.helm.upgrade(*release.trusted)
    release.wait_until_ready()


def tags() -> str:
    """Values by which any chart takes the images that the nodes have."""
    images = {part: reference(values["image"]) for part, values in chart_values().items() if part in ("api", "operator", "redis")}
    return ",".join(f"{part}.image.tag={image.rpartition(':')[2]}" for part, image in images.items())


def chart_with_another_column(folder: Path) -> Path:
    """This chart, with a change of the definition that everybody sees."""
    chart = Path(shutil.copytree(CHART, folder / "tidegate"))
    file = chart / "files/ratelimittiers.yaml"
    definition = yaml.safe_load(file.read_text())
    definition["spec"]["versions"][0]["additionalPrinterColumns"].append(COLUMN)
    file.write_text(yaml.safe_dump(definition))
    return chart


def belongings(release: Release) -> Belongings:
    """What is there now."""
    secrets = {one["metadata"]["name"]: one["data"] for one in release.objects("secrets", "--field-selector", "type=Opaque")}
    refusals = []
    for region in REGIONS:
        with release.region(region, "small", tenant="spent") as customer:
            refusals.append(eventually(lambda: decided(customer), seconds=10))
    with release.region("dublin", "pro", tenant="loyal") as customer:
        answer = customer.post("/v1/credits/purchases", ORDER, "an-order-before-the-upgrade")
    return Belongings(
        tiers={one["metadata"]["name"]: (one["metadata"]["uid"], one["spec"]) for one in release.objects("ratelimittiers")},
        secrets=secrets,
        servers={pod["metadata"]["uid"] for server in SERVERS for pod in release.pods(server)},
        refusals=refusals,
        purchase=(answer.status, answer.body, answer.headers.get("idempotent-replayed")),
    )


def decided(customer: Client) -> int:
    """The status of an answer that the region's Redis decided on; 0 where it took too long, as on a busy computer."""
    answer = customer.get("/v1/credits")
    return 0 if answer.headers.get("tidegate-unavailable") == "region" else answer.status


def columns(release: Release) -> list[str]:
    """How kubectl shows tiers, as the definition says."""
    return release.kubectl("get", "rlt").splitlines()[0].split()


def test_an_upgrade_from_the_chart_before_and_the_way_back_lose_nothing(
    earlier: Release, token: str, figures: Figures, tmp_path: Path
) -> None:
    """No request, no tier, no key, no usage and no purchase; and the new definition is served, which Helm alone would leave as it was."""
    with earlier.region("frankfurt", "pro", tenant="loyal") as customer:
        bought = customer.post("/v1/credits/purchases", ORDER, "an-order-before-the-upgrade")
    with earlier.region("frankfurt", "small", tenant="spent") as customer:
        spent = [customer.get("/v1/credits").status for _ in range(LIMIT + 1)]
    # The other region hears of it within a moment; a look takes several seconds.
    eventually(lambda: belongings(earlier).refusals == [429, 429], seconds=60)
    before, shown = belongings(earlier), columns(earlier)

    with traffic(earlier, token) as met:
        earlier.helm.upgrade(*("--reset-then-reuse-values", "--set", f"api.image.tag={NEXT}"), chart=chart_with_another_column(tmp_path))
        earlier.wait_until_ready()
        eventually(lambda: columns(earlier) == [*shown, COLUMN["name"].upper()], seconds=10)
        upgraded = belongings(earlier)
        met.mark("upgraded")
        earlier.helm.rollback()
        earlier.wait_until_ready()
        eventually(lambda: columns(earlier) == shown, seconds=10)
        returned = belongings(earlier)

    before_this, after = met.between(until="upgraded"), met.between(since="upgraded")
    figures(f"failed requests, upgrade from {KEPT.name}", f"{len(met.failed(until='upgraded'))} of {len(before_this)}")
    figures(f"failed requests, rollback to {KEPT.name}", f"{len(met.failed(since='upgraded'))} of {len(after)}")
    assert met.failed() == []
    assert spent == [200] * LIMIT + [429]
    assert before.purchase == (201, bought.body, "true")
    assert before == upgraded == returned


def test_servers_with_one_password_change_over_to_users_as_documented(earlier: Release) -> None:
    """Then each role has a password of its own, usage is counted and shown, and a purchase of before is still replayed."""
    order = "an-order-before-the-change-over"
    with earlier.region("frankfurt", "pro", tenant="moving") as customer:
        bought = customer.post("/v1/credits/purchases", ORDER, order)
    before = passwords(earlier)
    (step,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/redis.md").read_text(), re.DOTALL | re.MULTILINE)

    for command in step.splitlines():
        paste(earlier, command)
    earlier.wait_until_ready()

    eventually(earlier.tiers.all_ready, seconds=60)
    with earlier.region("dublin", "pro", tenant="moving") as customer:
        replayed = customer.post("/v1/credits/purchases", ORDER, order)
        eventually(lambda: decided(customer) == 200, seconds=10)
    assert (replayed.status, replayed.body, replayed.headers.get("idempotent-replayed")) == (201, bought.body, "true")
    assert earlier.used("dublin", "pro", tenant="moving")[0] >= 1
    assert len(passwords(earlier)) > len(before)
    assert passwords(earlier).isdisjoint(before)


def passwords(release: Release) -> set[str]:
    """Passwords of the regions' servers, as clients are given them."""
    (secret,) = (one["data"] for one in release.objects("secrets") if one["metadata"]["name"] == "tidegate-redis")
    urls = [b64decode(value).decode() for key, value in secret.items() if key.endswith(".url")]
    return {urlsplit(url).password or "" for url in urls}
