"""Edges of the chart: rendered by Helm, read by a real Envoy, and the same as those of the local run."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.chart.edges import clusters, complaint, config, endpoints, eventually, heard, running
from tests.chart.rendering import CHART, Helm, Json, find, render
from tests.fake_api import FakeApi, serving

from tidegate.local.edge import TEMPLATE, bootstrap
from tidegate.local.layout import Layout

REGIONS = ("frankfurt", "dublin")
OSLO = 'regions=[{"name":"frankfurt"},{"name":"dublin"},{"name":"oslo"}]'


@pytest.fixture(scope="session")
def edged(helm: Helm) -> list[Json]:
    """The chart with edges."""
    return render(helm, "--set", "edge.enabled=true")


@pytest.mark.parametrize("region", REGIONS)
def test_envoy_accepts_what_is_rendered(edged: list[Json], region: str, tmp_path: Path) -> None:
    assert complaint(config(edged, region), tmp_path / "envoy.yaml") == ""


def test_edges_behave_as_those_of_the_local_run(edged: list[Json], tmp_path: Path) -> None:
    """Nothing differs but where an edge listens and where it finds the regions: one file is the source of both."""
    layout = Layout.at(tmp_path, tmp_path, 0)
    assert tuple(region.name for region in layout.regions) == REGIONS

    for region in layout.regions:
        here, there = bootstrap(region, layout.regions), config(edged, region.name)
        assert without_places(there) == without_places(here)
        assert [(each["priority"], each["locality"]) for each in endpoints(there)] == [
            (int(each["locality"]["region"] != region.name), each["locality"]) for each in endpoints(there)
        ]
    assert (CHART / "files/edge.yaml").read_text() == TEMPLATE.read_text()


def without_places(config: Json) -> Any:
    """An edge without its addresses."""
    copied = json.loads(json.dumps(config))
    (listener,), (found,) = copied["static_resources"]["listeners"], copied["static_resources"]["clusters"]
    del listener["address"]
    for key in ("type", "cluster_type", "load_assignment"):
        found.pop(key, None)
    return copied


@pytest.mark.parametrize("region", REGIONS)
def test_an_edge_prefers_its_own_region_and_finds_the_pods_of_each(edged: list[Json], region: str) -> None:
    assert clusters(config(edged, region))["api"]["cluster_type"]["name"] == "envoy.clusters.dns"
    for each in endpoints(config(edged, region)):
        name = each["locality"]["region"]
        (endpoint,) = each["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        service = find(edged, "Service", address["address"])["spec"]
        (container,) = find(edged, "Deployment", f"tidegate-api-{name}")["spec"]["template"]["spec"]["containers"]

        assert each["priority"] == int(name != region)
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        assert service["selector"]["tidegate.dev/region"] == name
        assert {"name": "http", "containerPort": address["port_value"]} in container["ports"]


def test_what_all_regions_share_is_in_front_of_edges_where_there_are_any(edged: list[Json], rendered: list[Json]) -> None:
    selectors = [find(documents, "Service", "tidegate")["spec"]["selector"] for documents in (edged, rendered)]

    assert [selector["app.kubernetes.io/component"] for selector in selectors] == ["edge", "api"]
    assert find(edged, "Service", "tidegate-edge-dublin")["spec"]["selector"]["tidegate.dev/region"] == "dublin"


def test_an_edge_listens_where_its_pod_says_and_restarts_with_its_configuration(helm: Helm, edged: list[Json]) -> None:
    template = find(edged, "Deployment", "tidegate-edge-dublin")["spec"]["template"]
    (listener,) = config(edged, "dublin")["static_resources"]["listeners"]
    third = find(render(helm, "--set", "edge.enabled=true", "--set-json", OSLO), "Deployment", "tidegate-edge-dublin")["spec"]["template"]

    (container,) = template["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": listener["address"]["socket_address"]["port_value"]}]
    assert template["metadata"]["annotations"] != third["metadata"]["annotations"]


def test_an_edge_goes_on_until_services_have_forgotten_it(helm: Helm, edged: list[Json]) -> None:
    """Where the cluster knows how: before 1.30 a hook without a shell is refused."""
    pod = find(edged, "Deployment", "tidegate-edge-dublin")["spec"]["template"]["spec"]
    old = render(helm, "--set", "edge.enabled=true", "--kube-version", "1.29.0")

    assert pod["containers"][0]["lifecycle"] == {"preStop": {"sleep": {"seconds": 10}}}
    assert pod["terminationGracePeriodSeconds"] > 10
    assert "lifecycle" not in find(old, "Deployment", "tidegate-edge-dublin")["spec"]["template"]["spec"]["containers"][0]


def test_an_edge_is_as_safe_as_every_pod(edged: list[Json]) -> None:
    pod = find(edged, "Deployment", "tidegate-edge-dublin")["spec"]["template"]["spec"]
    budgets = [found["metadata"]["name"] for found in edged if found["kind"] == "PodDisruptionBudget"]

    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["containers"][0]["args"][pod["containers"][0]["args"].index("--concurrency") + 1] == "2"
    assert {"tidegate-edge-frankfurt", "tidegate-edge-dublin"} <= set(budgets)


@pytest.fixture
def pods(edged: list[Json], tmp_path: Path) -> Iterator[tuple[int, dict[str, list[FakeApi]]]]:
    """The port of Frankfurt's edge as it is rendered, but for addresses; and two pods of each region behind it."""
    with ExitStack() as stack:
        apis = {region: [stack.enter_context(serving(FakeApi(region))) for _ in range(2)] for region in REGIONS}
        port = stack.enter_context(running(config(edged, "frankfurt"), apis, tmp_path / "envoy.yaml"))
        eventually(lambda: heard(port) == {"frankfurt"})
        yield port, apis


def is_spared(api: FakeApi, port: int) -> bool:
    """Whether its region answers twenty requests without it."""
    before = api.served
    return heard(port) == {api.region} and api.served == before


def test_a_region_gets_everything_while_half_of_its_pods_are_well_and_nothing_without_any(
    pods: tuple[int, dict[str, list[FakeApi]]],
) -> None:
    """A pod that starts or ends sends no request to another region; a region that cannot serve sends all."""
    port, apis = pods
    first, second = apis["frankfurt"]

    first.ready = False
    eventually(lambda: is_spared(first, port))
    assert all(is_spared(first, port) for _ in range(5))

    second.ready = False
    eventually(lambda: heard(port) == {"dublin"})

    first.ready = True
    eventually(lambda: heard(port) == {"frankfurt"})


@pytest.mark.parametrize("region", REGIONS)
def test_nobody_may_drain_or_reconfigure_an_edge(edged: list[Json], region: str) -> None:
    """Envoy's administration asks nobody who they are."""
    (listener,) = config(edged, region)["static_resources"]["listeners"]

    assert "admin" not in config(edged, region)
    assert "dynamic_resources" not in config(edged, region)
    assert listener["name"] == "edge"


def test_there_is_no_edge_unless_asked_for(rendered: list[Json]) -> None:
    assert not [found for found in rendered if "-edge" in found["metadata"]["name"] or "-pods-" in found["metadata"]["name"]]
