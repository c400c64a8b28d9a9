"""The way in from outside of the cluster, as `helm template` renders it; tests/kube has real definitions judge it."""

import pytest
from tests.chart.rendering import Helm, Json, find, refusal, render

GATEWAY = "gateway.enabled=true,gateway.parentRefs[0].name=public,gateway.parentRefs[0].namespace=gateways"


def test_nobody_is_let_in_unless_asked_for(rendered: list[Json]) -> None:
    assert not [found for found in rendered if found["kind"] in ("HTTPRoute", "Ingress")]


def test_a_route_leads_from_a_gateway_to_all_regions(helm: Helm) -> None:
    values = f"{GATEWAY},gateway.hostnames={{api.example}},gateway.annotations.owner=me,service.port=8080"
    route = find(render(helm, "--set", values), "HTTPRoute", "tidegate")

    assert route["metadata"]["annotations"] == {"owner": "me"}
    assert route["spec"] == {
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["api.example"],
        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"name": "tidegate", "port": 8080}]}],
    }


def test_an_ingress_leads_to_all_regions_where_there_is_no_gateway(helm: Helm) -> None:
    tls = "ingress.tls[0].hosts={api.example},ingress.tls[0].secretName=api-tls"
    values = f"ingress.enabled=true,ingress.className=nginx,ingress.hostnames={{api.example,*.api.example}},ingress.annotations.a=b,{tls}"
    ingress = find(render(helm, "--set", values), "Ingress", "tidegate")

    assert ingress["metadata"]["annotations"] == {"a": "b"}
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"hosts": ["api.example"], "secretName": "api-tls"}]
    assert [rule["host"] for rule in ingress["spec"]["rules"]] == ["api.example", "*.api.example"]
    for rule in ingress["spec"]["rules"]:
        assert [path["backend"]["service"]["name"] for path in rule["http"]["paths"]] == ["tidegate"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("gateway.enabled=true", "gateway.parentRefs: a route hangs on a Gateway; name yours"),
        ("ingress.enabled=true", "ingress.hostnames: without a host it would take the requests of all"),
        ("ingress.enabled=true,ingress.hostnames={https://api.example}", "hostnames"),
        (GATEWAY + ",gateway.hostnames={API.example}", "hostnames"),
    ],
)
def test_a_way_that_leads_nowhere_is_refused(helm: Helm, values: str, said: str) -> None:
    assert said in refusal(helm, "--set", values)
