"""What a customer meets at an edge of the chart while the regions behind it are lost, and other clusters are left; with a real Envoy."""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.chart.edges import PATH, clusters, config, eventually, heard, running
from tests.chart.rendering import Helm, Json, render
from tests.fake_api import FakeApi, serving
from tests.topologies import Certificates

from tidegate.local.client import Answer, Client

HOST = "api.example"
MARK = "tidegate-edge"
RESOLVER = {"@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"}
Serve = Callable[..., FakeApi]
Start = Callable[..., int]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is stopped at the end, edges before whom they ask."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    """Starts a pod of a region."""

    def serve(region: str, context: ssl.SSLContext | None = None) -> FakeApi:
        return stack.enter_context(serving(FakeApi(region, context=context)))

    return serve


@pytest.fixture
def start(helm: Helm, stack: ExitStack, tmp_path: Path) -> Start:
    """Starts the edge of Frankfurt, the only region of its cluster, and returns its port."""

    def start(*pods: FakeApi, peers: list[Json], authority: Path | None = None) -> int:
        rendered = edge(helm, *peers)
        for cluster in clusters(rendered).values():
            if "transport_socket" in cluster:
                trusted = cluster["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]["trusted_ca"]
                trusted["filename"] = str(authority)
        return stack.enter_context(running(rendered, {"frankfurt": pods}, tmp_path / f"{len(list(tmp_path.iterdir()))}.json"))

    return start


def edge(helm: Helm, *peers: Json) -> Json:
    """What the edge of Frankfurt reads."""
    options = ["edge.enabled=true,keys.existingSecret=keys,store.existingSecret=store"]
    named = ["--set-json", 'regions=[{"name":"frankfurt"}]', "--set-json", f"edge.peers={json.dumps(peers)}"]
    return config(render(helm, "--set", *options, *named), "frankfurt")


def plain(port: int, name: str = "dublin") -> Json:
    """A peer without TLS."""
    return {"name": name, "url": f"http://127.0.0.1:{port}"}


def secure(port: int, name: str = HOST) -> Json:
    """A peer whose certificate is to be for a name."""
    return {"name": "dublin", "url": f"https://127.0.0.1:{port}", "serverName": name, "caConfigMap": "authority"}


def lose(*pods: FakeApi) -> None:
    """From now on nobody gets an answer of them."""
    for pod in pods:
        pod.ready, pod.loses_replies = False, True


def bring_back(*pods: FakeApi) -> None:
    for pod in pods:
        pod.ready, pod.loses_replies = True, False


def ask(port: int, count: int) -> list[Answer]:
    with Client(port) as client:
        return [client.get(PATH) for _ in range(count)]


def test_a_lost_cluster_is_answered_by_another_at_once_and_taken_back(serve: Serve, start: Start, tmp_path: Path) -> None:
    """Over TLS; not one of two hundred requests fails, ten at a time and from the first on, and not one goes there before."""
    certificates = Certificates(tmp_path / "dublin", HOST)
    own, peer = serve("frankfurt"), serve("dublin", certificates.context())
    port = start(own, peers=[secure(peer.server_port)], authority=certificates.authority)
    eventually(lambda: heard(port) == {"frankfurt"} and "" not in peer.marks and peer.marks != set())

    assert peer.served == 0
    lose(own)
    with ThreadPoolExecutor(10) as customers:
        answers = [answer for asked in customers.map(ask, [port] * 10, [20] * 10) for answer in asked]
    bring_back(own)

    assert {(answer.status, answer.region) for answer in answers} == {(200, "dublin")}
    eventually(lambda: heard(port) == {"frankfurt"})


def test_a_certificate_with_a_wildcard_is_one_of_its_hosts(serve: Serve, start: Start, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "dublin", "*.example")
    own, peer = serve("frankfurt"), serve("dublin", certificates.context())
    port = start(own, peers=[secure(peer.server_port)], authority=certificates.authority)

    lose(own)

    eventually(lambda: heard(port) == {"dublin"})


@pytest.mark.parametrize(("trusted", "name"), [("another", HOST), ("dublin", "other.example")], ids=["authority", "name"])
def test_a_peer_of_another_authority_or_name_is_never_told_a_token(
    serve: Serve, start: Start, tmp_path: Path, trusted: str, name: str
) -> None:
    """Nobody answers rather than somebody else; and what is said then is a problem like every other."""
    certificates = {folder: Certificates(tmp_path / folder, HOST) for folder in ("dublin", "another")}
    own, peer = serve("frankfurt"), serve("dublin", certificates["dublin"].context())
    port = start(own, peers=[secure(peer.server_port, name)], authority=certificates[trusted].authority)
    eventually(lambda: heard(port) == {"frankfurt"})

    lose(own)
    answers = ask(port, 10)

    assert {answer.status for answer in answers} == {503}
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert (peer.served, peer.marks) == (0, set())


def test_peers_are_asked_in_the_order_of_the_values(serve: Serve, start: Start) -> None:
    own, near, far = serve("frankfurt"), serve("dublin"), serve("oslo")
    port = start(own, peers=[plain(near.server_port), plain(far.server_port, "oslo")])

    lose(own)
    eventually(lambda: heard(port) == {"dublin"})
    assert far.served == 0

    lose(near)
    assert {answer.region for answer in ask(port, 50)} == {"oslo"}

    bring_back(near)
    eventually(lambda: heard(port) == {"dublin"})


def test_a_mutation_whose_reply_is_lost_is_sent_to_the_peer_as_it_was(serve: Serve, start: Start) -> None:
    """With its key and its body, by which the store that both share knows that it was done."""
    own, peer = serve("frankfurt"), serve("dublin")
    port = start(own, peers=[plain(peer.server_port)])
    eventually(lambda: heard(port) == {"frankfurt"} and MARK in peer.marks)

    own.loses_replies = True
    with Client(port) as client:
        answer = client.post("/v1/credits/purchases", {"amount": 500}, "an-order")

    assert (answer.status, answer.region) == (200, "dublin")
    assert own.posted == peer.posted == [('"an-order"', b'{"amount": 500}')]


def test_a_cluster_that_is_full_is_not_relieved_at_the_expense_of_another(serve: Serve, start: Start) -> None:
    """A hundred refusals in a row, of which three would eject a region that fails."""
    own, peer = serve("frankfurt"), serve("dublin")
    port = start(own, peers=[plain(peer.server_port)])
    eventually(lambda: heard(port) == {"frankfurt"})

    own.status, own.unavailable = 503, "capacity"

    assert {(answer.status, answer.region) for answer in ask(port, 100)} == {(503, "frankfurt")}
    assert peer.served == 0


def test_a_region_of_which_little_is_left_shares_with_the_peer_and_loses_nothing(serve: Serve, start: Start) -> None:
    """One pod of three: no request meets one of the others, as it would if the own region were taken for all there is."""
    pods, peer = [serve("frankfurt") for _ in range(3)], serve("dublin")
    port = start(*pods, peers=[plain(peer.server_port)])
    eventually(lambda: heard(port) == {"frankfurt"} and MARK in peer.marks)

    lost = pods[1:]
    for pod in lost:
        pod.ready = False
    eventually(lambda: heard(port) == {"frankfurt", "dublin"} and are_spared(lost, port))

    assert all(are_spared(lost, port) for _ in range(5))


def are_spared(pods: list[FakeApi], port: int) -> bool:
    """Whether fifty requests are answered without them."""
    before = [pod.served for pod in pods]
    return {answer.status for answer in ask(port, 50)} == {200} and [pod.served for pod in pods] == before


def test_a_name_that_no_server_of_names_answers_for_does_not_hold_up_the_start(
    helm: Helm, stack: ExitStack, serve: Serve, tmp_path: Path
) -> None:
    """Envoy would wait until it gives the name up, and with it every new pod of an edge."""
    silent = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    silent.bind(("127.0.0.1", 0))
    rendered = edge(helm, {"name": "dublin", "url": "http://dublin.example"})
    address = {"socket_address": {"address": "127.0.0.1", "port_value": silent.getsockname()[1]}}
    resolver = {"name": "envoy.network.dns_resolver.cares", "typed_config": {**RESOLVER, "resolvers": [address]}}
    clusters(rendered)["peer-dublin"]["cluster_type"]["typed_config"]["typed_dns_resolver_config"] = resolver

    port = stack.enter_context(running(rendered, {"frankfurt": [serve("frankfurt")]}, tmp_path / "edge.json"))

    eventually(lambda: heard(port) == {"frankfurt"}, seconds=10)
    assert silent.recv(512)


def test_edges_that_name_each_other_pass_nothing_around(serve: Serve, start: Start) -> None:
    """What came through an edge is answered by the regions of that cluster, or by nobody: neither a request nor a check of health."""
    own, other, third = serve("frankfurt"), serve("dublin"), serve("oslo")
    there = start(other, peers=[plain(third.server_port, "oslo")])
    here = start(own, peers=[plain(there)])
    eventually(lambda: heard(here) == {"frankfurt"} and heard(there) == {"dublin"} and MARK in third.marks)

    lose(own)
    eventually(lambda: heard(here) == {"dublin"})
    lose(other)
    eventually(lambda: heard(there) == {"oslo"})
    asked = third.served
    answers = ask(here, 20)

    assert {answer.status for answer in answers} == {503}
    assert third.served == asked
