"""What the chart gives a Prometheus operator and Grafana: off unless asked for, and on metrics that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from promql_parser import parse
from tests.chart.rendering import CHART, ROOT, Helm, Json, find, refusal, render

EVERYTHING = "metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true,metrics.dashboard.enabled=true"
LABELS = "metrics.podMonitor.labels.release=mine,metrics.prometheusRule.labels.release=mine"


@pytest.fixture(scope="session")
def monitored(helm: Helm) -> list[Json]:
    """The chart with etcd, three workers a pod, and everything for Prometheus and Grafana."""
    return render(helm, "--set", f"{EVERYTHING},{LABELS},metrics.podMonitor.interval=30s,api.workers=3,store.type=Etcd")


def alerts() -> list[Json]:
    """The rules of the file."""
    (group,) = yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    return list(group["rules"])


def dashboard() -> Json:
    return dict(json.loads((CHART / "files/dashboard.json").read_text()))


def queries() -> Iterator[str]:
    """What alerts and panels ask, as Prometheus would be asked."""
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"].replace("$__rate_interval", "5m") for panel in dashboard()["panels"] for target in panel["targets"])


def test_nothing_is_made_for_a_prometheus_operator_that_may_not_be_there(rendered: list[Json]) -> None:
    assert not [found for found in rendered if "monitoring" in found["apiVersion"] or "dashboard" in found["metadata"]["name"]]


def test_every_worker_and_every_member_is_scraped(monitored: list[Json]) -> None:
    workers, store = (find(monitored, "PodMonitor", name) for name in ("tidegate-api", "tidegate-store"))
    (api,) = find(monitored, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]["containers"]
    (member,) = find(monitored, "StatefulSet", "tidegate-store")["spec"]["template"]["spec"]["containers"]

    scraped = [endpoint["port"] for endpoint in workers["spec"]["podMetricsEndpoints"]]
    assert scraped == [port["name"] for port in api["ports"] if port["name"] != "http"]
    assert {endpoint["interval"] for endpoint in workers["spec"]["podMetricsEndpoints"]} == {"30s"}
    assert workers["spec"]["podTargetLabels"] == ["tidegate.dev/region"]
    assert workers["metadata"]["labels"]["release"] == "mine"
    assert [endpoint["port"] for endpoint in store["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert "metrics" in [port["name"] for port in member["ports"]]


def test_alerts_watch_what_the_monitor_of_this_release_scrapes(monitored: list[Json]) -> None:
    rule = find(monitored, "PrometheusRule", "tidegate-api")
    (group,) = rule["spec"]["groups"]

    assert rule["metadata"]["labels"]["release"] == "mine"
    assert len(group["rules"]) == len(alerts())
    assert all('job="apis/tidegate-api"' in each["expr"] for each in group["rules"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("metrics.podMonitor.enabled=true,api.metricsPort=0", "there is nothing to scrape; set it to 9100"),
        ("metrics.prometheusRule.enabled=true", "enable metrics.podMonitor too"),
    ],
)
def test_what_would_watch_nothing_is_refused_with_a_sentence(helm: Helm, values: str, said: str) -> None:
    assert said in refusal(helm, "--set", values)


def test_monitors_that_no_policy_lets_through_are_refused(helm: Helm) -> None:
    """No alert would fire: all are about series that are not there then."""
    nobody = ("--set", "metrics.podMonitor.enabled=true", "--set-json", "networkPolicy.metricsFrom=[]")

    assert "networkPolicy.metricsFrom: nobody is let through" in refusal(helm, *nobody)
    assert find(render(helm, *nobody, "--set", "networkPolicy.enabled=false"), "PodMonitor", "tidegate-api")


def test_alerts_and_panels_ask_only_for_metrics_and_labels_that_exist() -> None:
    rows = re.findall(r"^\| `(tidegate_\w+)` \| (\w+) \| ([^|]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    known = {name + ("_bucket" if kind == "histogram" else ""): set(re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}

    for query in queries():
        parse(query)
        asked = re.findall(r"(tidegate_\w+)\{([^}]*)\}", query)
        assert asked, query
        for name, matchers in asked:
            labels = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers)) - {"job", "tidegate_dev_region"}
            assert labels <= known[name], query


def test_outcomes_that_alerts_and_panels_name_exist() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \| [a-z]", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    named = {value for query in queries() for values in re.findall(r'outcome(?:=~|!=|=)"([^"]*)"', query) for value in values.split("|")}

    assert len(named) >= 6
    assert named <= documented


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        for document in re.findall(r"docs/[\w.]+\.md", rule["annotations"]["description"]):
            assert (ROOT / document).exists()


def test_the_dashboard_is_found_by_the_sidecar_and_chooses_release_and_region(monitored: list[Json]) -> None:
    shown = find(monitored, "ConfigMap", "tidegate-dashboard")
    panels: list[Any] = dashboard()["panels"]

    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shown["data"]["tidegate.json"]) == dashboard()
    assert [variable["name"] for variable in dashboard()["templating"]["list"]] == ["datasource", "job", "region"]
    assert len({panel["id"] for panel in panels}) == len({json.dumps(panel["gridPos"]) for panel in panels}) == len(panels)
