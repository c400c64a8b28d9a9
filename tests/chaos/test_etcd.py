"""Members of the consistent store are lost in every way: whoever has been told something is told it for ever, and nothing is done twice."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.chaos.conftest import etcd
from tests.chaos.customer import Customer
from tests.chaos.partition import DivisibleCluster
from tests.chaos.stage import PAYMENTS, PURCHASES, Stage, stage_on
from tests.kube.processes import eventually

BOTH = [PURCHASES, PAYMENTS]


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DivisibleCluster]:
    with DivisibleCluster(etcd(), tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: DivisibleCluster) -> Iterator[DivisibleCluster]:
    """Three members, of which the first leads; whatever a test does to them is undone."""
    shared_cluster.restore()
    yield shared_cluster
    shared_cluster.restore()


@pytest.fixture(scope="session")
def shared_stage(shared_cluster: DivisibleCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Frankfurt asks the first member first, Dublin the second."""
    first, second, third = shared_cluster.members
    urls = shared_cluster.url_of(first, second, third), shared_cluster.url_of(second, third, first)
    with stage_on(tmp_path_factory.mktemp("stage"), *urls) as stage:
        yield stage


async def settled(stage):
    """A customer of each kind, with an order and its final answer."""
    made = []
    for path in BOTH:
        customer = Customer(stage)
        order = customer.order(path)
        made.append((customer, order, await customer.settle(order, *stage.regions)))
    return made


async def assert_known(stage, orders):
    """In both regions, by the same bytes, and once."""
    for customer, order, answer in orders:
        assert answer.status_code == 201
        for region in stage.regions:
            again = await customer.settle(order, region)
            assert (again.content, again.headers["Idempotent-Replayed"]) == (answer.content, "true")
        assert await customer.effects(order) == [1]


@pytest.mark.parametrize("loss", ["killed", "frozen", "cut_off"])
@pytest.mark.parametrize("whose", ["leader", "follower"])
async def test_with_one_member_lost_mutations_go_on_and_nothing_is_forgotten(stage, cluster, loss, whose):
    """W6, W7; also where it is the member that a region asks first."""
    before = await settled(stage)
    lost = cluster.members[0 if whose == "leader" else 1]

    {"killed": lost.kill, "frozen": lost.freeze, "cut_off": lambda: cluster.cut_off(lost)}[loss]()
    meanwhile = await settled(stage)
    cluster.restore()
    after = await settled(stage)

    await assert_known(stage, [*before, *meanwhile, *after])


async def test_a_leader_that_is_cut_off_tells_nobody_what_it_cannot_know(stage, cluster):
    """It takes a while to notice. What it is asked and told meanwhile is not what the others agree on."""
    here, there = stage.regions
    orders = [(customer, customer.order(path)) for path in BOTH for customer in [Customer(stage)]]

    cluster.cut_off(cluster.members[0])
    first = await asyncio.gather(*(customer.send(here, order) for customer, order in orders))
    done = [(customer, order, await customer.settle(order, there)) for customer, order in orders]
    cluster.restore()

    assert {answer.status_code for answer in first if answer is not None} <= {201, 503}
    await assert_known(stage, done)


@pytest.mark.parametrize("loss", ["killed", "cut_off"])
async def test_without_a_majority_nothing_is_done_and_reads_go_on(stage, cluster, loss):
    """IDEM-16, W8, B11: never fail open."""
    before = await settled(stage)
    leader, *others = cluster.members
    if loss == "killed":
        for member in others:
            member.kill()
    else:
        cluster.cut_off(leader)
        others[0].kill()
    orders = [(customer, customer.order(path)) for path in BOTH for customer in [Customer(stage)]]

    answers = [await customer.send(region, order) for customer, order in orders for region in stage.regions]
    replays = [await customer.send(region, order) for customer, order, _ in before for region in stage.regions]
    paths = ("/v1/credits", "/v1/usage", "/v1/tiers/pro", "/livez", "/readyz")
    reads = [await Customer(stage).get(region, path) for region in stage.regions for path in paths]
    charged = [await customer.effects(order) for customer, order in orders if order.path == PAYMENTS]
    cluster.restore()
    after = [(customer, order, await customer.settle(order, *stage.regions)) for customer, order in orders]

    assert {(answer.status_code, answer.json()["type"].rpartition("/")[2]) for answer in [*answers, *replays]} == {
        (503, "idempotency-unavailable")
    }
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert {answer.status_code for answer in reads} == {200}
    assert charged == [[]]
    await assert_known(stage, [*before, *after])


async def test_a_member_that_lost_its_disk_is_refused_until_it_is_replaced_and_then_knows_everything(stage, cluster):
    """IDEM-19, W10: whoever knows nothing gets no vote. In the end a majority needs the new one, and Frankfurt asks it."""
    before = await settled(stage)
    lost, kept, other = cluster.members

    lost.kill()
    cluster.lose_disk(lost)
    lost.start()
    eventually(lost.program.has_ended, seconds=30)
    meanwhile = await settled(stage)
    cluster.replace(lost)
    other.kill()
    eventually(lambda: lost.has_leader() and kept.has_leader(), seconds=30)
    after = await settled(stage)

    assert "has already been bootstrapped" in lost.program.log.read_text()
    await assert_known(stage, [*before, *meanwhile, *after])
