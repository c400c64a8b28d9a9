"""Servers of one's own: each form of URL that docs/redis.md has reaches worker and operator through the chart, and both take it."""

import json
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest
from tests.chart.rendering import CHART, ROOT, Helm, Json, find, render

from tidegate.settings import Settings
from tidegate_operator.settings import Settings as OperatorSettings

ROWS = re.findall(r"^\| (one server|Sentinel|Cluster) \| `(redis\S*?)`", (ROOT / "docs/redis.md").read_text(), re.MULTILINE)
FORMS = [re.sub("^redis", scheme, url) for (_, url), scheme in product(ROWS, ("redis", "rediss"))]
OPTIONS = ("", "?ssl_ca_certs=/etc/tls/ca.pem")


@pytest.fixture(scope="module")
def documents(helm: Helm) -> list[Json]:
    return render(helm, "--values", str(CHART / "ci/external-redis-values.yaml"))


def environment(pod: Json, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What the container of a pod finds, with these Secrets in the cluster; a pod has no name before it runs."""
    found = {}
    for entry in pod["containers"][0]["env"]:
        source = entry.get("valueFrom", {})
        if "fieldRef" not in source:
            key = source.get("secretKeyRef")
            found[entry["name"]] = secrets[key["name"]][key["key"]] if key else entry["value"]
    return found


def test_every_documented_form_is_tried() -> None:
    assert len(FORMS) == 6
    assert {url.partition(":")[0] for url in FORMS} == {
        f"{scheme}{kind}" for scheme, kind in product(("redis", "rediss"), ("", "+sentinel", "+cluster"))
    }


@pytest.mark.parametrize("url", [form + option for form in FORMS for option in OPTIONS if form.startswith("rediss") or not option])
def test_worker_and_operator_take_it(documents: list[Json], url: str, tmp_path: Path) -> None:
    regions = tmp_path / "regions.yaml"
    regions.write_text(json.dumps({"frankfurt": url, "dublin": url}))
    secrets = {
        "redis": {"dublin.url": url},
        "store": {"store.url": "rediss://USER:PASSWORD@HOST:6379/0"},
        "lanes": {"dublin.url": "rediss://USER:PASSWORD@HOST:6379/0"},
    }
    api, operator = (
        find(documents, "Deployment", name)["spec"]["template"]["spec"] for name in ("tidegate-api-dublin", "tidegate-operator")
    )

    settings = Settings.from_environment(environment(api, secrets))
    told = environment(operator, secrets) | {"TIDEGATE_OPERATOR_REGIONS_FILE": str(regions)}

    assert settings.region == "dublin"
    assert settings.limits_shards == 12
    assert {publisher.region for publisher in OperatorSettings.from_environment(told).publishers()} == {"frankfurt", "dublin"}


def test_an_authority_is_mounted_where_the_urls_name_it(documents: list[Json]) -> None:
    for name in ("tidegate-api-dublin", "tidegate-operator"):
        pod = find(documents, "Deployment", name)["spec"]["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/etc/tls"] in {volume["name"] for volume in pod["volumes"] if "configMap" in volume}
