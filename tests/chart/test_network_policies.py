"""Who may talk to whom, as the chart's policies say; that a network enforces them is another matter."""

from typing import Any

import pytest
from tests.chart.rendering import Helm, Json, find, render

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
NAMES = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def policy(documents: list[Json], name: str) -> Json:
    """The rules for a component's pods."""
    return dict(find(documents, "NetworkPolicy", name)["spec"])


def ports(rule: Json) -> list[int]:
    return [port["port"] for port in rule.get("ports", ())]


def components(peers: Any) -> list[tuple[str, str]]:
    """Component and region of the peers that are pods of this release."""
    found = [peer["podSelector"]["matchLabels"] for peer in peers if set(peer) == {"podSelector"}]
    return [(labels["app.kubernetes.io/component"], labels.get("tidegate.dev/region", "")) for labels in found]


def rules(documents: list[Json], name: str, direction: str, port: int) -> list[tuple[str, str]]:
    """With whom the pods talk on a port."""
    found = [rule for rule in policy(documents, name)[direction] if port in ports(rule)]
    return [peer for rule in found for peer in components(rule.get("from") or rule.get("to") or ())]


@pytest.mark.parametrize(
    ("values", "count"), [("", 8), ("store.type=Etcd", 8), ("edge.enabled=true", 10), ("cache.shared.enabled=false", 6)]
)
def test_every_pod_is_under_exactly_one_policy_for_both_directions(helm: Helm, values: str, count: int) -> None:
    documents = render(helm, *(["--set", values] if values else []))
    policies = [found["spec"] for found in documents if found["kind"] == "NetworkPolicy"]
    workloads = [found["spec"]["template"]["metadata"]["labels"] for found in documents if found["kind"] in ("Deployment", "StatefulSet")]

    assert len(workloads) == count
    for labels in workloads:
        matching = [each for each in policies if each["podSelector"]["matchLabels"].items() <= labels.items()]
        assert [each["policyTypes"] for each in matching] == [["Ingress", "Egress"]]


def test_a_redis_hears_its_own_region_and_the_operator_alone(rendered: list[Json]) -> None:
    spec = policy(rendered, "tidegate-redis-dublin")

    assert rules(rendered, "tidegate-redis-dublin", "ingress", 6379) == [("api", "dublin"), ("operator", "")]
    assert len(spec["ingress"]) == 1
    assert not spec.get("egress")


def test_workers_reach_their_region_the_store_lanes_and_names_alone(rendered: list[Json]) -> None:
    egress = policy(rendered, "tidegate-api-dublin")["egress"]

    assert egress[0] == NAMES
    assert rules(rendered, "tidegate-api-dublin", "egress", 6379) == [("redis", "dublin"), ("store", ""), ("cache", "dublin"), ("lane", "")]
    assert len(egress) == 5


def test_a_shared_lane_hears_the_workers_of_its_region_alone(rendered: list[Json]) -> None:
    assert rules(rendered, "tidegate-cache-dublin", "ingress", 6379) == [("api", "dublin")]
    assert not policy(rendered, "tidegate-cache-dublin").get("egress")


def test_members_hear_one_another_and_the_workers(helm: Helm) -> None:
    documents = render(helm, "--set", "store.type=Etcd")

    assert rules(documents, "tidegate-store", "ingress", 2379) == [("api", ""), ("store", "")]
    assert rules(documents, "tidegate-store", "ingress", 2380) == [("store", "")]
    assert rules(documents, "tidegate-store", "egress", 2380) == [("store", "")]
    assert rules(documents, "tidegate-api-dublin", "egress", 2379) == [("store", "")]


def test_the_operator_hears_nobody_and_reaches_the_regions_and_the_api_server(rendered: list[Json]) -> None:
    spec = policy(rendered, "tidegate-operator")

    assert "ingress" not in spec
    assert [ports(rule) for rule in spec["egress"]] == [[53, 53], [443, 6443], [6379]]
    assert rules(rendered, "tidegate-operator", "egress", 6379) == [("redis", "")]


def test_anybody_reaches_the_api_and_only_monitoring_its_metrics(rendered: list[Json]) -> None:
    public, metrics = policy(rendered, "tidegate-api-dublin")["ingress"]

    assert public == {"ports": [{"port": 8000}]}
    assert metrics == {"ports": [{"port": 9100}, {"port": 9101}], "from": [MONITORING]}


def test_an_edge_hears_anybody_and_reaches_the_workers_of_all_regions(helm: Helm) -> None:
    documents = render(helm, "--set", "edge.enabled=true")

    assert policy(documents, "tidegate-edge")["ingress"] == [{"ports": [{"port": 8080}]}]
    assert rules(documents, "tidegate-edge", "egress", 8000) == [("api", "")]


def test_an_edge_and_the_test_of_this_release_are_never_locked_out(helm: Helm) -> None:
    gateway = '[{"namespaceSelector":{"matchLabels":{"gateway":"yes"}}}]'
    documents = render(helm, "--set", "edge.enabled=true", "--set-json", f"networkPolicy.ingressFrom={gateway}")

    assert rules(documents, "tidegate-api-dublin", "ingress", 8000) == [("edge", ""), ("test", "")]
    assert rules(documents, "tidegate-edge", "ingress", 8080) == [("edge", ""), ("test", "")]


def test_who_reaches_what_can_be_said(helm: Helm) -> None:
    given = {
        "ingressFrom": '[{"namespaceSelector":{"matchLabels":{"gateway":"yes"}}}]',
        "metricsFrom": "[]",
        "dnsPorts": "[5353]",
        "extraEgress": '[{"to":[{"ipBlock":{"cidr":"10.2.0.0/16"}}]}]',
    }
    options = [option for name, value in given.items() for option in ("--set-json", f"networkPolicy.{name}={value}")]
    spec = policy(render(helm, *options), "tidegate-api-dublin")

    (public,) = spec["ingress"]
    assert {"namespaceSelector": {"matchLabels": {"gateway": "yes"}}} in public["from"]
    assert ports(spec["egress"][0]) == [5353, 5353]
    assert spec["egress"][-1] == {"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]}


@pytest.mark.parametrize("values", ["redis.existingSecret=a", "store.existingSecret=a", "cache.existingSecret=a"])
def test_servers_that_a_secret_names_are_reached_wherever_they_are_unless_the_values_say(helm: Helm, values: str) -> None:
    """What is in the Secret is not known to the chart; an installation must work all the same."""
    server = {"ipBlock": {"cidr": "10.1.0.0/16"}}
    anywhere = policy(render(helm, "--set", values), "tidegate-api-dublin")
    there = policy(
        render(helm, "--set", values, "--set-json", 'networkPolicy.serversTo=[{"ipBlock":{"cidr":"10.1.0.0/16"}}]'), "tidegate-api-dublin"
    )

    assert {} in anywhere["egress"]
    assert {} not in there["egress"]
    assert {"to": [server]} in there["egress"]


@pytest.mark.parametrize(
    ("url", "port"), [("https://provider", 443), ("http://provider", 80), ("http://provider:8080", 8080), ("http://[fd00::1]:81", 81)]
)
def test_a_payment_provider_is_reached_at_its_port(helm: Helm, url: str, port: int) -> None:
    assert {"ports": [{"port": port}]} in policy(render(helm, "--set", f"payments.url={url}"), "tidegate-api-dublin")["egress"]


def test_policies_can_be_left_out(helm: Helm) -> None:
    assert not [found for found in render(helm, "--set", "networkPolicy.enabled=false") if found["kind"] == "NetworkPolicy"]
