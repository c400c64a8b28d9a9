"""Members of the store as the chart renders them: real processes of etcd with its arguments and its certificates."""

import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from tests.kube.chart import render
from tests.kube.members import Certificates, Member, Store, named, store
from tests.kube.processes import eventually
from tests.kube.tiers import Json

from tidegate.connections.etcd import StoreUrl
from tidegate.store.base import ABSENT, Committed, Write
from tidegate.store.connect import open_store

ETCD = "store.type=Etcd"
# A follower waits one to two seconds for a lost leader, and a call that came meanwhile takes its whole timeout.
ELECTION_SECONDS = 10


@pytest.fixture(scope="module")
def rendered(built: Callable[[str], Path]) -> list[Json]:
    """The chart with etcd as the store."""
    return render(built("helm"), ETCD)


@pytest.fixture
def running(rendered: list[Json], built: Callable[[str], Path], tmp_path: Path) -> Iterator[Store]:
    """Three members, ready."""
    with store(rendered, built("etcd"), tmp_path) as members:
        yield members


def test_what_one_member_takes_the_others_have(running: Store) -> None:
    """Over the JSON gateway, with a worker's certificate; both probes pass."""
    first, second, third = running.members

    first.put("credit", "500", running.client.identity)

    assert [member.get("credit", running.client.identity) for member in (second, third)] == ["500", "500"]
    assert running.listed(first).keys() == {"tidegate-store-0", "tidegate-store-1", "tidegate-store-2"}
    assert all(member.passes(running.container["livenessProbe"]) for member in running.members)


def test_five_members_form_a_store_too(built: Callable[[str], Path], tmp_path: Path) -> None:
    """And lose two without losing a write."""
    with store(render(built("helm"), ETCD, "store.etcd.replicas=5"), built("etcd"), tmp_path) as running:
        running.members[0].put("credit", "500", running.client.identity)

        for member in running.members[:2]:
            member.program.kill()

        eventually(lambda: takes(running, running.members[4]), seconds=ELECTION_SECONDS)
        assert running.members[4].get("credit", running.client.identity) == "500"


def takes(running: Store, member: Member) -> bool:
    """Whether a member takes a write."""
    try:
        member.put("probe", "", running.client.identity)
    except OSError:
        return False
    return True


def test_a_client_without_a_certificate_is_refused(running: Store) -> None:
    """It trusts the members, and they do not know it."""
    with pytest.raises(OSError, match=r"alert certificate required|EOF|reset"):
        running.members[0].put("credit", "500", running.client.trust)

    assert running.members[0].get("credit", running.client.identity) is None


def test_a_client_of_another_authority_is_refused(running: Store, built: Callable[[str], Path], tmp_path: Path) -> None:
    """Another installation's workers, for instance."""
    other = Certificates.mount(named(render(built("helm"), ETCD), "Secret", "tidegate-store-client-tls"), tmp_path / "other")
    stranger = running.client.trust
    stranger.load_cert_chain(other.folder / "tls.crt", other.folder / "tls.key")

    with pytest.raises(OSError, match=r"alert unknown ca|alert bad certificate|EOF|reset"):
        running.members[0].put("credit", "500", stranger)

    assert running.members[0].get("credit", running.client.identity) is None


def test_a_worker_cannot_pass_for_a_member(running: Store) -> None:
    """Who speaks to the port of the members may write their log, past every transaction's guard."""
    address = running.members[0].url("peer") + "/members"

    with pytest.raises(OSError, match=r"alert bad certificate|EOF|reset"):
        urllib.request.urlopen(address, timeout=5, context=running.client.identity)

    with urllib.request.urlopen(address, timeout=5, context=running.own.identity) as answer:
        assert answer.status == 200


def url_of_workers(rendered: list[Json]) -> str:
    """TIDEGATE_STORE_URL as a worker gets it."""
    (container,) = named(rendered, "Deployment", "tidegate-api-frankfurt")["spec"]["template"]["spec"]["containers"]
    return next(str(variable["value"]) for variable in container["env"] if variable["name"] == "TIDEGATE_STORE_URL")


async def test_a_worker_commits_with_what_the_chart_gives_it(running: Store, rendered: list[Json]) -> None:
    """The URL, with addresses of this machine in place of names, and the certificate; also once the first member is lost."""
    url = url_of_workers(rendered).replace("/etc/tidegate/store", str(running.client.folder))
    for member in running.members:
        url = url.replace(f"{member.name}.tidegate-store:2379", f"127.0.0.1:{member.ports['client']}")
    opened = open_store(StoreUrl(url), timeout_seconds=2)

    await opened.check()
    committed = await opened.commit({"credit": ABSENT}, [Write("credit", b"500")])
    running.members[0].program.kill()
    eventually(lambda: takes(running, running.members[1]), seconds=ELECTION_SECONDS)
    found = await opened.read(["credit"])
    await opened.close()

    assert isinstance(committed, Committed)
    assert found["credit"].value == b"500"


def test_members_are_who_the_url_of_the_workers_names(running: Store, rendered: list[Json]) -> None:
    """Each host of TIDEGATE_STORE_URL is a name in the certificate."""
    url = url_of_workers(rendered)
    hosts = [address.removesuffix(":2379") for address in url.removeprefix("etcds://").split("/")[0].split(",")]

    assert hosts == [f"{member.name}.tidegate-store" for member in running.members]
    for host, member in zip(hosts, running.members, strict=True):
        with (
            socket.create_connection(("127.0.0.1", member.ports["client"]), timeout=5) as connection,
            running.client.identity.wrap_socket(connection, server_hostname=host) as shaken,
        ):
            assert shaken.version() == "TLSv1.3"


def test_a_lost_leader_costs_an_election_and_no_write(running: Store) -> None:
    """The two others go on, and it has what it missed once it is back."""
    lost = running.leader()
    lost.put("credit", "500", running.client.identity)
    other = next(member for member in running.members if member is not lost)

    lost.program.kill()
    eventually(lambda: takes(running, other), seconds=ELECTION_SECONDS)

    assert other.get("credit", running.client.identity) == "500"
    other.put("credit", "400", running.client.identity)
    lost.program.start()
    eventually(running.are_ready, seconds=20)
    assert lost.get("credit", running.client.identity) == "400"


def test_without_a_majority_nothing_is_written_and_nothing_restarted(running: Store) -> None:
    """The last one is not ready, for it cannot tell what holds; it lives, for a restart would not help."""
    last, *others = running.members
    for member in others:
        member.program.kill()

    assert not takes(running, last)
    assert not last.passes(running.container["readinessProbe"])
    assert last.passes(running.container["livenessProbe"])


@pytest.mark.parametrize("membership", ["Forming", "Formed"])
def test_a_member_that_lost_its_disk_does_not_come_back_by_itself(running: Store, membership: str, built: Callable[[str], Path]) -> None:
    """As the member that it was it would have forgotten what it promised."""
    lost, other, _ = running.members
    other.put("credit", "500", running.client.identity)
    running.render_anew(built("etcd"), render(built("helm"), ETCD, f"store.etcd.membership={membership}"))

    lost.lose_disk()
    lost.program.start()

    eventually(lost.program.has_ended, seconds=20)
    assert {"Forming": "already been bootstrapped", "Formed": "cannot fetch cluster info"}[membership] in lost.program.last_words()
    eventually(lambda: takes(running, other), seconds=ELECTION_SECONDS)
    assert other.get("credit", running.client.identity) == "500"


def test_no_lost_disks_make_a_formed_store_an_empty_one(running: Store, built: Callable[[str], Path]) -> None:
    """A majority that lost its disks, and cannot ask the one that did not."""
    first, *others = running.members
    first.put("credit", "500", running.client.identity)
    running.render_anew(built("etcd"), render(built("helm"), ETCD, "store.etcd.membership=Formed"))

    first.program.kill()
    for member in others:
        member.lose_disk()
        member.program.start()

    for member in others:
        eventually(member.program.has_ended, seconds=20)


def test_members_of_a_formed_store_restart_with_what_they_hold(running: Store, built: Callable[[str], Path]) -> None:
    """All of them at once, too."""
    running.members[0].put("credit", "500", running.client.identity)
    running.render_anew(built("etcd"), render(built("helm"), ETCD, "store.etcd.membership=Formed"))

    for member in running.members:
        member.program.kill()
    for member in running.members:
        member.program.start()

    eventually(running.are_ready, seconds=20)
    assert running.members[2].get("credit", running.client.identity) == "500"


def test_a_lost_member_is_replaced_as_documented(running: Store, built: Callable[[str], Path]) -> None:
    """Removed, added, joined as a new one; and afterwards it starts like the others."""
    lost, other, _ = running.members
    other.put("credit", "500", running.client.identity)
    lost.lose_disk()
    eventually(lambda: takes(running, other), seconds=ELECTION_SECONDS)
    running.render_anew(built("etcd"), render(built("helm"), ETCD, "store.etcd.membership=Replacing"))

    other.call("cluster/member/remove", {"ID": running.listed(other)[lost.name]["ID"]}, running.client.identity)
    # Refused as unhealthy until the two that are left have seen one another for five seconds.
    eventually(lambda: is_added(running, lost, by=other), seconds=20)
    lost.program.start()
    eventually(running.are_ready, seconds=20)
    running.render_anew(built("etcd"), render(built("helm"), ETCD, "store.etcd.membership=Formed"))
    lost.program.stop()
    lost.program.start()

    eventually(running.are_ready, seconds=20)
    assert lost.get("credit", running.client.identity) == "500"
    assert len(running.listed(other)) == 3


def is_added(running: Store, lost: Member, *, by: Member) -> bool:
    """Whether a new member may join at the address of the lost one."""
    try:
        by.call("cluster/member/add", {"peerURLs": [lost.url("peer")]}, running.client.identity)
    except HTTPError:
        return False
    return True
