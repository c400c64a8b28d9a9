"""What follows from the version of the chart, and what must not."""

import shutil
from pathlib import Path

import pytest
import yaml
from tests.chart.rendering import CHART, Helm, Json, render, templates
from tests.kube.chart import KEPT

FIXED = {"Deployment": ("selector",), "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")}
SAME = ("--set-string", "api.image.tag=1,operator.image.tag=1,keys.existingSecret=keys,redis.passwordSeed=0123456789abcdef0123456789abcdef")


def test_another_version_of_the_chart_restarts_no_pod_by_itself(helm: Helm, tmp_path: Path) -> None:
    """A region's Redis that is restarted has forgotten what customers used, and the only store is away meanwhile."""
    other = Path(shutil.copytree(CHART, tmp_path / "tidegate"))
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    (other / "Chart.yaml").write_text(yaml.safe_dump(metadata | {"version": "99.0.0", "appVersion": "99.0.0"}))

    present, later = render(helm, *SAME), render(helm, *SAME, chart=other)

    assert later[0]["metadata"]["labels"]["helm.sh/chart"] == "tidegate-99.0.0"
    assert list(templates(later)) == list(templates(present))


def test_the_chart_of_the_release_before_this_one_is_kept() -> None:
    """A release whose chart nobody kept leaves a version out, and one after which nobody raised the version has two charts of one name."""
    before, present = (yaml.safe_load((chart / "Chart.yaml").read_text())["version"] for chart in (KEPT, CHART))
    major, minor, patch = map(int, before.split("."))

    assert f"tidegate-{before}" == KEPT.name
    assert present in {f"{major + 1}.0.0", f"{major}.{minor + 1}.0", f"{major}.{minor}.{patch + 1}"}


@pytest.mark.parametrize("values", ["store.type=Redis", "store.type=Etcd", "edge.enabled=true"])
def test_an_upgrade_from_the_chart_before_this_one_changes_nothing_that_cannot_be_changed(helm: Helm, values: str) -> None:
    """The API server would refuse it: of a StatefulSet what disks and names of its pods follow from, of a Deployment what it selects."""
    before, present = fixed(render(helm, "--set", values, chart=KEPT)), fixed(render(helm, "--set", values))

    assert len(before) >= 7
    assert [name for name in before.keys() & present.keys() if before[name] != present[name]] == []


def fixed(documents: list[Json]) -> dict[str, Json]:
    """What cannot be changed of each workload, by its name."""
    workloads = [document for document in documents if document["kind"] in ("Deployment", "StatefulSet")]
    return {f"{one['kind']} {one['metadata']['name']}": {key: one["spec"].get(key) for key in FIXED[one["kind"]]} for one in workloads}
