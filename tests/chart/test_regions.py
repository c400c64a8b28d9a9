"""Regions of the chart and the Services in front of them, as `helm template` renders them."""

import pytest
import yaml
from tests.chart.rendering import CHART, Helm, Json, find, refusal, render


def service(documents: list[Json], name: str = "tidegate") -> Json:
    """A Service, by default that of all regions."""
    return dict(find(documents, "Service", name)["spec"])


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.37.2", "PreferSameZone"),
        ("1.34.0", "PreferSameZone"),
        ("1.34.0-alpha.1", "PreferSameZone"),
        ("1.33.9", "PreferClose"),
        ("1.31.0", "PreferClose"),
        ("1.30.9", None),
        ("1.29.0", None),
    ],
)
def test_traffic_stays_in_its_zone_as_far_as_the_cluster_can_be_told(helm: Helm, version: str, expected: str | None) -> None:
    """A field or word that a cluster does not know is refused, or dropped without a word."""
    assert service(render(helm, "--kube-version", version)).get("trafficDistribution") == expected


@pytest.mark.parametrize(("value", "expected"), [("none", None), ("PreferSameNode", "PreferSameNode"), ("PreferClose", "PreferClose")])
def test_how_traffic_is_distributed_can_be_said(helm: Helm, value: str, expected: str | None) -> None:
    assert service(render(helm, "--set", f"service.trafficDistribution={value}")).get("trafficDistribution") == expected


def test_one_service_is_for_all_regions_and_one_for_each(rendered: list[Json]) -> None:
    everywhere, own = service(rendered), service(rendered, "tidegate-api-dublin")

    assert "tidegate.dev/region" not in everywhere["selector"]
    assert own["selector"] == {**everywhere["selector"], "tidegate.dev/region": "dublin"}
    for name in ("frankfurt", "dublin"):
        labels = find(rendered, "Deployment", f"tidegate-api-{name}")["spec"]["template"]["metadata"]["labels"]
        assert everywhere["selector"].items() <= labels.items()


def test_a_load_balancer_can_be_asked_for(helm: Helm) -> None:
    documents = render(helm, "--set", "service.type=LoadBalancer,service.port=8080,service.annotations.internal=yes")

    assert service(documents)["type"] == "LoadBalancer"
    assert [port["port"] for port in service(documents)["ports"]] == [8080]
    assert find(documents, "Service", "tidegate")["metadata"]["annotations"] == {"internal": "yes"}


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ("[]", "regions: none is named; a release serves one region or more"),
        ('[{"name":"eu-central-1-frankfurt-a"}]', 'regions: "eu-central-1-frankfurt-a" has 24 characters, and 20 are allowed'),
        ('[{"name":"eu"},{"name":"eu"}]', 'regions: "eu" is named twice'),
        ('[{"name":"store"}]', 'regions: "store" names the consistent store'),
    ],
)
def test_regions_that_could_not_be_told_apart_are_refused_with_a_sentence(helm: Helm, regions: str, said: str) -> None:
    assert said in refusal(helm, "--set-json", f"regions={regions}")


def test_the_longest_names_of_release_and_regions_are_neither_cut_nor_equal(helm: Helm) -> None:
    """A StatefulSet's pods carry its name and a hash of eleven in one label of 63."""
    regions = [f"region-{'x' * 11}-{letter}" for letter in "ab"]
    settings = ",".join(f"regions[{n}].name={name}" for n, name in enumerate(regions))
    for release in ("r" * 53, "tidegate"):
        result = helm("template", release, str(CHART), "--set", f"{settings},edge.enabled=true")
        assert result.returncode == 0, result.stderr
        named = [(found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(result.stdout) if found]

        assert len(set(named)) == len(named)
        assert max(len(name) for kind, name in named if kind in ("Deployment", "StatefulSet")) <= 52
        assert max(len(name) for _, name in named) <= 63
        assert all(any(name.endswith(region) for kind, name in named if kind == "Deployment") for region in regions)


def test_regions_whose_names_continue_one_another_share_no_name(helm: Helm) -> None:
    regions = '[{"name":"eu"},{"name":"eu-pods"},{"name":"api"},{"name":"redis-eu"}]'
    documents = render(helm, "--set", "edge.enabled=true", "--set-json", f"regions={regions}")
    named = [(found["kind"], found["metadata"]["name"]) for found in documents]

    assert len(set(named)) == len(named)
