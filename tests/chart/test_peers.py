"""Other clusters behind the edges of the chart, as Helm renders them."""

import json
from pathlib import Path

import pytest
from tests.chart.edges import clusters, complaint, config
from tests.chart.rendering import CHART, Helm, Json, find, refusal, render
from tests.topologies import Certificates

SHARED = "edge.enabled=true,keys.existingSecret=keys,store.existingSecret=store"
NAMED = [
    {"name": "dublin", "url": "https://dublin.example:8443", "serverName": "api.example", "caConfigMap": "authority"},
    {"name": "oslo", "url": "https://oslo.example"},
    {"name": "madrid", "url": "http://tidegate-api-madrid.tidegate.svc.clusterset.local"},
]
REGIONS = ("--set-json", 'regions=[{"name":"frankfurt"},{"name":"berlin"}]')


def peers(*named: Json) -> tuple[str, ...]:
    """Options that name them."""
    return "--set-json", f"edge.peers={json.dumps(named)}"


@pytest.fixture(scope="module")
def edged(helm: Helm) -> Json:
    """An edge of two regions of this cluster."""
    return config(render(helm, "--set", SHARED, *REGIONS), "frankfurt")


@pytest.fixture(scope="module")
def documents(helm: Helm) -> list[Json]:
    """The same with three other clusters."""
    return render(helm, "--set", SHARED, *REGIONS, *peers(*NAMED))


@pytest.fixture
def peered(documents: list[Json]) -> Json:
    """The edge with those clusters behind it."""
    return config(documents, "frankfurt")


def validation(config: Json, peer: str) -> Json:
    """What the certificate of a peer is held to."""
    return dict(clusters(config)[f"peer-{peer}"]["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"])


def test_envoy_accepts_peers_of_every_kind(peered: Json, tmp_path: Path) -> None:
    for peer in ("dublin", "oslo"):
        validation(peered, peer)["trusted_ca"]["filename"] = str(Certificates(tmp_path / peer).authority)

    assert complaint(peered, tmp_path / "envoy.yaml") == ""


def test_peers_come_after_all_regions_in_their_order(peered: Json) -> None:
    asked = clusters(peered)["anywhere"]["cluster_type"]["typed_config"]["clusters"]

    assert asked == ["api", "peer-dublin", "peer-oslo", "peer-madrid"]


def test_peers_change_nothing_about_the_own_regions(edged: Json, peered: Json) -> None:
    """But that those that are not ready are asked only when nobody is."""
    (alone,), beside = clusters(edged).values(), clusters(peered)["api"]

    assert beside["common_lb_config"].pop("healthy_panic_threshold") == {"value": 1}
    assert alone["common_lb_config"] == {**beside["common_lb_config"], "healthy_panic_threshold": {"value": 50}}
    assert {**alone, "common_lb_config": {}} == {**beside, "common_lb_config": {}}


def test_a_peer_is_asked_as_an_own_region_is(peered: Json) -> None:
    """But for where it is, how long the way to it is, and the name that it is asked by."""
    own = clusters(peered)["api"]
    for name in ("dublin", "oslo", "madrid"):
        peer = clusters(peered)[f"peer-{name}"]
        check = peer["health_checks"][0]["http_health_check"]
        place = {"name", "connect_timeout", "wait_for_warm_on_init", "load_assignment", "transport_socket"}

        assert {key: peer[key] for key in peer.keys() - place - {"health_checks"}} == {
            key: own[key] for key in own.keys() - place - {"health_checks"}
        }
        assert peer["health_checks"] == [{**own["health_checks"][0], "http_health_check": check}]
        assert check["path"] == "/readyz"


@pytest.mark.parametrize(
    ("peer", "address", "port", "host"),
    [
        ("dublin", "dublin.example", 8443, "api.example"),
        ("oslo", "oslo.example", 443, "oslo.example"),
        ("madrid", "tidegate-api-madrid.tidegate.svc.clusterset.local", 80, "tidegate-api-madrid.tidegate.svc.clusterset.local"),
    ],
)
def test_a_peer_is_found_where_its_url_says(peered: Json, peer: str, address: str, port: int, host: str) -> None:
    found = clusters(peered)[f"peer-{peer}"]
    (endpoint,) = found["load_assignment"]["endpoints"][0]["lb_endpoints"]

    assert found["cluster_type"]["name"] == "envoy.clusters.dns"
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": address, "port_value": port}
    assert found["health_checks"][0]["http_health_check"]["host"] == host


@pytest.mark.parametrize(("peer", "name"), [("dublin", "api.example"), ("oslo", "oslo.example")])
def test_a_peer_over_tls_must_show_a_certificate_of_its_name(peered: Json, peer: str, name: str) -> None:
    assert clusters(peered)[f"peer-{peer}"]["transport_socket"]["typed_config"]["sni"] == name
    assert validation(peered, peer)["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": name}}]


def test_authorities_are_those_of_the_image_or_of_a_config_map(documents: list[Json], peered: Json) -> None:
    pod = find(documents, "Deployment", "tidegate-edge-frankfurt")["spec"]["template"]["spec"]
    mounted = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"]}
    own = Path(validation(peered, "dublin")["trusted_ca"]["filename"])

    assert own.name == "ca.crt"
    assert volumes[mounted[str(own.parent)]] == "authority"
    assert validation(peered, "oslo")["trusted_ca"]["filename"] == "/etc/ssl/certs/ca-certificates.crt"
    assert len(mounted) == 2


def test_an_edge_reaches_peers_on_their_ports_and_those_of_pods_behind_them(helm: Helm, documents: list[Json]) -> None:
    """A policy sees what a Service leads to, not the Service."""
    alone = render(helm, "--set", SHARED, *REGIONS)
    before, after = (find(found, "NetworkPolicy", "tidegate-edge")["spec"]["egress"] for found in (alone, documents))

    assert after == [*before, {"ports": [{"port": port} for port in (8000, 8080, 8443, 443, 80)]}]


@pytest.mark.parametrize(
    ("values", "named", "said"),
    [
        (SHARED.replace("true", "false"), NAMED, "edge.peers: only edges ask peers, and there are none; set edge.enabled to true"),
        (SHARED.replace("store.existingSecret=store", ""), NAMED, "name what all clusters share under store.existingSecret"),
        (
            SHARED.replace("keys.existingSecret=keys,", ""),
            NAMED,
            "would do again what a mutation that is sent to it once more has done here",
        ),
        (SHARED, [*NAMED, {**NAMED[1], "url": "https://else.example"}], 'edge.peers: "oslo" is the name of a region or of another peer'),
        (SHARED, [{**NAMED[1], "url": "https://oslo.example:99999"}], "edge.peers: port 99999 is none; 1 to 65535 are"),
        (SHARED, [{**NAMED[1], "name": "berlin"}], 'edge.peers: "berlin" is the name of a region or of another peer'),
        (
            SHARED,
            [{**NAMED[2], "serverName": "api.example"}],
            'edge.peers: "madrid" is asked over http://, where nobody shows a certificate',
        ),
        (SHARED, [{**NAMED[2], "caConfigMap": "a"}], "take serverName and caConfigMap away, or make it https://"),
        (SHARED, [{"name": "oslo", "url": "https://10.1.2.3"}], 'edge.peers: "oslo" has an address for a host; say by serverName'),
    ],
)
def test_peers_that_could_not_keep_the_promise_are_refused_with_a_sentence(helm: Helm, values: str, named: list[Json], said: str) -> None:
    assert said in refusal(helm, "--set", values, *REGIONS, *peers(*named))


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"url": "dublin.example"}, "url"),
        ({"url": "https://dublin.example/v1"}, "url"),
        ({"url": "https://user:secret@dublin.example"}, "url"),
        ({"url": "ftp://dublin.example"}, "url"),
        ({"url": 443}, "url"),
        ({"name": "Dublin"}, "name"),
        ({"name": "d" * 21}, "name"),
        ({"serverName": "*.example"}, "serverName"),
        ({"caConfigMap": ""}, "caConfigMap"),
        ({"port": 443}, "port"),
    ],
)
def test_what_is_no_peer_is_refused_by_the_schema(helm: Helm, wrong: Json, place: str) -> None:
    said_by_helm = refusal(helm, "--set", SHARED, *peers({**NAMED[0], **wrong}))

    assert "/edge/peers/0" in said_by_helm
    assert place in said_by_helm


def test_the_notes_say_who_is_asked_last(helm: Helm) -> None:
    result = helm("install", "tidegate", str(CHART), "--dry-run=client", "--set", SHARED, *REGIONS, *peers(*NAMED[:2]))

    assert (
        "When no region of this release can, they ask dublin (https://dublin.example:8443), oslo (https://oslo.example)." in result.stdout
    )
