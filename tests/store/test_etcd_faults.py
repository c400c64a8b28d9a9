"""The consistent store on etcd when members, leases, logins or networks fail: nothing is written twice, nothing is said that is not so."""

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from tests.etcd_cluster import EtcdCluster, Member
from tests.topologies import Certificates, Way

from tidegate.connections.etcd import EtcdServers
from tidegate.store import leases
from tidegate.store.base import ABSENT, Committed, Conflict, Write
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreRefusedError, StoreUnavailableError
from tidegate.store.etcd import EtcdStore

pytestmark = pytest.mark.etcd

TIMEOUT_SECONDS = 1.5
COMMIT = {"a": ABSENT}, [Write("a", b"1")]


@pytest.fixture
async def open_store() -> AsyncIterator[Callable[..., EtcdStore]]:
    """`open_store(url)`: closed after the test."""
    stores = []

    def make(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> EtcdStore:
        stores.append(EtcdStore(EtcdServers.read(url), timeout_seconds=timeout_seconds))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


async def seconds_of(call: Any) -> float:
    begun = time.monotonic()
    await call
    return time.monotonic() - begun


async def value_of(store: EtcdStore, key: str) -> bytes | None:
    found = (await store.read([key])).get(key)
    return found.value if found else None


async def committed_soon(store: EtcdStore, key: str, seconds: float) -> None:
    """Try as a client would, with one key, until the commit or its earlier success shows."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            assert await store.commit({key: ABSENT}, [Write(key, b"1")]) in (
                Conflict((key,)),
                Committed((await store.read([key]))[key].version),
            )
        except StoreUnavailableError:
            assert time.monotonic() < deadline, f"no commit within {seconds} s"
        else:
            return


async def test_a_dead_member_is_passed_over_and_not_asked_again(etcd, port, open_store):
    """Nothing was sent to it, so that a commit may go on."""
    store = open_store(etcd.url_of(port, etcd.members[1]))

    assert isinstance(await store.commit(*COMMIT), Committed)
    assert await value_of(store, "a") == b"1"


async def test_a_member_that_cannot_be_connected_costs_a_share_of_the_deadline_once(etcd, open_store):
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            # Whoever comes after these is not answered at all, as by a machine that is gone.
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        store = open_store(etcd.url_of(silent.getsockname()[1], etcd.members[0]))

        assert TIMEOUT_SECONDS / 4 < await seconds_of(store.commit(*COMMIT)) < TIMEOUT_SECONDS
        assert await seconds_of(store.read(["a"])) < TIMEOUT_SECONDS / 4


async def test_a_frozen_member_fails_one_commit_and_no_read(etcds, open_store):
    """What became of a commit that was sent nobody knows; a read may be asked of another."""
    cluster = etcds()
    follower = next(member for member in cluster.members if not member.leads())
    others = [member for member in cluster.members if member is not follower]
    reading, writing = (open_store(cluster.url_of(follower, *others)) for _ in range(2))
    await asyncio.gather(reading.read(["a"]), writing.read(["a"]))
    follower.freeze()

    assert await seconds_of(reading.read(["a"])) < TIMEOUT_SECONDS
    with pytest.raises(StoreUnavailableError, match="did not answer"):
        await writing.commit({}, [Write("other", b"1")])
    assert await seconds_of(writing.commit(*COMMIT)) < TIMEOUT_SECONDS / 3
    assert await seconds_of(reading.read(["a"])) < TIMEOUT_SECONDS / 3


async def test_the_nearest_member_is_asked_first_again_once_it_answers_the_check(etcds, open_store):
    cluster = etcds()
    async with AsyncExitStack() as stack:
        near, far = [await stack.enter_async_context(Way(member.port).open()) for member in cluster.members[:2]]
        store = open_store(cluster.url_of(near.port, far.port))
        near.loses_replies_to = b"kv/txn"
        await store.read(["a"])
        await store.read(["a"])
        assert near.lost == 1

        await store.check()
        await store.read(["a"])
        assert near.lost == 2


async def test_a_nearest_member_that_hangs_fails_no_commit_while_it_is_looked_after(etcds, open_store):
    cluster = etcds()
    follower = next(member for member in cluster.members if not member.leads())
    store = open_store(cluster.url_of(follower, *(member for member in cluster.members if member is not follower)))
    follower.freeze()
    await store.read(["a"])

    looking = asyncio.create_task(store.check())
    number = 0
    while not looking.done():
        number += 1
        assert isinstance(await store.commit({}, [Write(f"{number}", b"1")]), Committed)
    await looking

    assert number > 10


async def test_a_member_without_a_leader_is_not_taken_for_one_that_answers(etcd, etcds, open_store, eventually):
    """As one that is cut off from the others, but not from us."""
    lonely, *others = etcds().members
    for member in others:
        member.kill()
    await eventually(lambda: not lonely.has_leader(), 15)
    store = open_store(etcd.url_of(lonely, *etcd.members))

    await store.check()

    assert await seconds_of(store.commit(*COMMIT)) < TIMEOUT_SECONDS / 4
    await store.check()
    assert await seconds_of(store.read(["a"])) < TIMEOUT_SECONDS / 4


async def test_commits_go_on_within_seconds_after_the_leader_was_killed(etcds, open_store):
    cluster = etcds()
    store = open_store(cluster.url)
    await store.commit({}, [Write("before", b"1")])
    cluster.leader().kill()

    await committed_soon(store, "after", 5)

    assert await value_of(store, "before") == b"1"


async def test_without_a_majority_nothing_is_written_and_nobody_waits_past_the_deadline(etcds, open_store, eventually):
    """IDEM-16."""
    cluster = etcds()
    left, *others = cluster.members
    store = open_store(cluster.url)
    await store.commit({}, [Write("before", b"1")])
    for member in others:
        member.kill()
    await eventually(lambda: not left.has_leader(), 15)

    for call in (store.commit(*COMMIT), store.read(["before"]), store.check()):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            await call
        assert time.monotonic() - begun < TIMEOUT_SECONDS + 0.5

    for member in others:
        member.start()
    cluster.wait()
    await committed_soon(store, "after", 10)
    assert set(await store.read(["a", "before"])) == {"before"}


async def test_without_a_majority_a_read_that_changes_nothing_takes_what_a_member_has(etcds, open_store, eventually):
    """IDEM-16: reads go on, and only the first waits to learn that it must."""
    cluster = etcds()
    left, *others = cluster.members
    store = open_store(cluster.url)
    await store.commit({}, [Write("before", b"1")])
    for member in others:
        member.kill()
    await eventually(lambda: not left.has_leader(), 15)

    took = []
    for _ in range(2):
        begun = time.monotonic()
        assert (await store.read(["before", "never"], or_stale=True)).keys() == {"before"}
        took.append(time.monotonic() - begun)
    with pytest.raises(StoreUnavailableError):
        await store.read(["before"])

    assert took[1] < TIMEOUT_SECONDS / 4
    left.kill()
    with pytest.raises(StoreUnavailableError):
        await store.read(["before"], or_stale=True)


@pytest.mark.parametrize("way_to_lose", ["late", "cut"])
async def test_a_commit_whose_answer_is_lost_is_not_sent_again(etcd, open_store, way_to_lose):
    """W11: only a retry of whoever asked, under the same idempotency key, finds out what became of it."""
    async with AsyncExitStack() as stack:
        ways = [await stack.enter_async_context(Way(member.port).open()) for member in etcd.members]
        store = open_store(etcd.url_of(*(way.port for way in ways)))
        await store.read(["a"])
        for way in ways:
            way.loses_replies_to = b"request_put"
        if way_to_lose == "late":
            ways[0].loses_replies_to = b""
            ways[0].flows.clear()

        with pytest.raises(StoreUnavailableError, match="did not answer"):
            await store.commit(*COMMIT)

        assert [way.lost for way in ways] == [way_to_lose == "cut", 0, 0]
        if way_to_lose == "late":
            assert await value_of(store, "a") == b"1"
            ways[1].loses_replies_to = b""
            assert await store.commit(*COMMIT) == Conflict(("a",))


async def test_a_member_killed_with_a_commit_under_way_leaves_it_done_or_not_done(etcds, open_store):
    """Never half of it."""
    cluster = etcds()
    first = cluster.members[0]
    store = open_store(cluster.url)
    await store.read(["a"])
    commits = [asyncio.create_task(store.commit({f"a{n}": ABSENT}, [Write(f"a{n}", b"1"), Write(f"b{n}", b"1")])) for n in range(50)]
    await asyncio.wait(commits, return_when=asyncio.FIRST_COMPLETED)
    first.kill()

    results = await asyncio.gather(*commits, return_exceptions=True)

    assert all(isinstance(result, Committed | StoreUnavailableError) for result in results), results
    await committed_soon(store, "after", 5)
    found = await store.read([f"{letter}{n}" for letter in "ab" for n in range(50)])
    for number, result in enumerate(results):
        assert (f"a{number}" in found) == (f"b{number}" in found)
        assert f"a{number}" in found or not isinstance(result, Committed)


async def test_a_lease_that_somebody_revoked_is_replaced(etcd, open_store):
    store = open_store(etcd.url)
    await store.commit({}, [Write("first", b"1", retention_seconds=3600)])
    revoke_leases(etcd.members[0])

    result = await store.commit({"a": ABSENT}, [Write("a", b"1", retention_seconds=3600), Write("b", b"1")])

    assert isinstance(result, Committed)
    assert set(await store.read(["first", "a", "b"])) == {"a", "b"}


def revoke_leases(member: Member) -> None:
    for lease in member.call("lease/leases").get("leases", []):
        member.call("lease/revoke", {"ID": lease["ID"]})


async def test_values_of_a_while_share_a_lease(etcd, open_store):
    """A lease each would cost etcd more than the values."""
    revoke_leases(etcd.members[0])
    store = open_store(etcd.url)

    await asyncio.gather(*(store.commit({}, [Write(f"{n}", b"1", retention_seconds=3600 + n % 2)]) for n in range(100)))

    assert len(etcd.members[0].call("lease/leases")["leases"]) == 2


async def test_a_lease_takes_no_more_values_than_etcd_deletes_in_a_moment(etcd, open_store, monkeypatch):
    monkeypatch.setattr(leases, "MOST_VALUES", 10)
    store = open_store(etcd.url)
    revoke_leases(etcd.members[0])

    for number in range(30):
        await store.commit({}, [Write(f"{number}", b"1", retention_seconds=3600)])

    assert len(etcd.members[0].call("lease/leases")["leases"]) == 3


@pytest.mark.parametrize("hours", [-25, 25])
async def test_a_wrong_time_of_day_shortens_no_retention(etcd, open_store, monkeypatch, hours):
    """IDEM-17: a lease is counted by etcd, in spans."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    store = open_store(etcd.url)

    await store.commit({}, [Write("a", b"1", retention_seconds=90_000)])

    assert 90_000 <= remaining_seconds(etcd, "a") <= 93_602


def remaining_seconds(cluster: EtcdCluster, key: str) -> int:
    name = base64.b64encode(f"tidegate/1/{key}".encode()).decode()
    [found] = cluster.members[0].call("kv/range", {"key": name})["kvs"]
    return int(cluster.members[0].call("lease/timetolive", {"ID": found["lease"]})["TTL"])


async def test_a_lease_takes_values_for_a_quarter_of_their_retention(etcd, open_store):
    """Each value is kept its whole retention, whenever within the quarter it was written."""
    store = open_store(etcd.url)
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < 3:
        number += 1
        await store.commit({}, [Write(f"{number}", b"1", retention_seconds=4)])
        # etcd tells whole seconds, rounded down.
        assert remaining_seconds(etcd, f"{number}") + 1 >= 4
        await asyncio.sleep(0.1)

    assert number > 10


async def test_a_full_cluster_refuses_commits_and_says_so_and_reads_on(etcds, open_store):
    store = open_store(etcds("--quota-backend-bytes", str(16 << 20), members=1).url, timeout_seconds=5)
    await store.commit({}, [Write("a", b"1")])
    await store.check()

    said: list[str] = []
    with pytest.raises(StoreUnavailableError, match="space exceeded"):
        await fill(store, said)

    assert "--auto-compaction-retention" in said[-1]
    with pytest.raises(StoreUnavailableError, match="NOSPACE"):
        await store.check()
    assert await value_of(store, "a") == b"1"


async def fill(store: EtcdStore, said: list[str]) -> None:
    for number in range(40):
        await store.commit({}, [Write(f"full-{number}", bytes(1_000_000))])
        try:
            await store.check()
        except StoreAilingError as ex:
            said.append(str(ex))


async def test_a_cluster_whose_members_differ_is_not_to_be_trusted(etcds, open_store):
    cluster = etcds(members=1)
    member = cluster.members[0].call("maintenance/status")["header"]["member_id"]
    cluster.members[0].call("maintenance/alarm", {"action": "ACTIVATE", "alarm": "CORRUPT", "memberID": member})

    with pytest.raises(StoreMisconfiguredError, match="CORRUPT"):
        await open_store(cluster.url).check()


async def test_what_etcd_will_never_take_is_no_outage(etcd, open_store):
    store = open_store(etcd.url)

    for size in (1_700_000, 3 << 20):
        with pytest.raises(StoreRefusedError, match=r"too large|larger than max"):
            await store.commit({}, [Write("a", bytes(size))])
    with pytest.raises(StoreRefusedError, match="too many operations"):
        await store.commit({}, [Write(f"{number}", b"1") for number in range(200)])


PASSWORD = "pass,word/?"


@pytest.fixture
def secured(etcds) -> EtcdCluster:
    """A cluster of one, where `tidegate` may do what docs/store.md grants it, and with tokens that last for a second."""
    cluster = etcds("--auth-token-ttl", "1", members=1)
    call = cluster.members[0].call
    call("auth/user/add", {"name": "root", "password": "of the tests"})
    call("auth/user/grant", {"user": "root", "role": "root"})
    call("auth/role/add", {"name": "tidegate"})
    bounds = {"key": base64.b64encode(b"tidegate/").decode(), "range_end": base64.b64encode(b"tidegate0").decode()}
    call("auth/role/grant", {"name": "tidegate", "perm": {"permType": "READWRITE", **bounds}})
    call("auth/user/add", {"name": "tidegate", "password": PASSWORD})
    call("auth/user/grant", {"user": "tidegate", "role": "tidegate"})
    call("auth/enable")
    return cluster


def url_with(cluster: EtcdCluster, login: str) -> str:
    return cluster.url_of(*cluster.members, login=f"{login}@")


async def test_a_user_of_few_rights_is_enough(secured, open_store):
    store = open_store(url_with(secured, "tidegate:pass%2Cword%2F%3F"))

    assert isinstance(await store.commit({"a": ABSENT}, [Write("a", b"1", retention_seconds=60)]), Committed)
    assert await value_of(store, "a") == b"1"
    await store.check()


async def test_an_outdated_token_is_replaced(secured, open_store):
    """It expired, its member has started again, or somebody's rights were changed: all refuse the call unseen."""
    store = open_store(url_with(secured, "tidegate:pass%2Cword%2F%3F"))
    await store.commit({}, [Write("a", b"1")])
    # Expiry is looked for once a second; a use would put it off.
    await asyncio.sleep(3.5)
    assert await value_of(store, "a") == b"1"

    secured.members[0].kill()
    secured.members[0].start()
    secured.wait_for_login("tidegate", PASSWORD)
    # Notices that its connection was closed, which a commit would not outlive.
    assert await value_of(store, "a") == b"1"
    assert isinstance(await store.commit({}, [Write("a", b"2")]), Committed)

    token = secured.members[0].call("auth/authenticate", {"name": "root", "password": "of the tests"})["token"]
    secured.members[0].call("auth/role/add", {"name": "another"}, token=token)
    results = await asyncio.gather(*(store.commit({}, [Write(f"{number}", b"1")]) for number in range(20)))
    assert all(isinstance(result, Committed) for result in results)


@pytest.mark.parametrize("login", ["tidegate:wrong", "nobody:pass%2Cword%2F%3F"])
async def test_a_wrong_password_is_told_without_the_password(secured, open_store, login):
    store = open_store(url_with(secured, login))

    for call in (store.commit(*COMMIT), store.read(["a"]), store.check()):
        with pytest.raises(StoreUnavailableError, match="refuses the login") as caught:
            await call
        assert login.partition(":")[2] not in str(caught.value)


async def test_a_cluster_without_users_refuses_a_login(etcd, open_store):
    with pytest.raises(StoreUnavailableError, match="authentication is not enabled"):
        await open_store(url_with(etcd, "tidegate:x")).read(["a"])


async def test_over_tls_only_the_right_authority_is_believed(etcd, open_store, tmp_path):
    """A commit is not sent to whoever cannot prove who he is."""
    certificates, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    async with Way(etcd.members[0].port, certificates.context()).open() as way:
        url = f"etcds://127.0.0.1:{way.port}/?ca="

        assert isinstance(await open_store(f"{url}{certificates.authority}").commit(*COMMIT), Committed)
        for wrong in (f"{url}{others.authority}", f"etcds://127.0.0.1:{way.port}"):
            with pytest.raises(StoreUnavailableError, match="ClientConnectorCertificateError"):
                await open_store(wrong).commit({}, [Write("b", b"1")])
        assert await value_of(open_store(etcd.url), "b") is None


async def test_where_etcd_wants_a_certificate_of_its_clients_it_gets_the_one_of_the_url(etcds, open_store, tmp_path):
    own = Certificates(tmp_path / "own")
    context = ssl.create_default_context(cafile=own.authority)
    context.load_cert_chain(own.certificate)
    flags = ("--client-cert-auth", "--trusted-ca-file", str(own.authority))
    cluster = etcds("--cert-file", str(own.certificate), "--key-file", str(own.certificate), *flags, members=1, context=context)
    url = f"etcds://127.0.0.1:{cluster.members[0].port}/?ca={own.authority}"

    assert isinstance(await open_store(f"{url}&cert={own.certificate}&key={own.certificate}").commit(*COMMIT), Committed)
    with pytest.raises(StoreUnavailableError):
        await open_store(url).read(["a"])
