"""Two operators that share a Lease, as the chart runs them with `operator.replicas=2`: one acts, and another once it is lost."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from kubernetes import client
from tests.kube.chart import Helm
from tests.kube.conftest import make_namespace
from tests.kube.control_plane import ControlPlane, Kubectl
from tests.kube.processes import Program, eventually
from tests.kube.stage import Regions, operator, two_regions
from tests.kube.tiers import Json, TierClient, limited

LEASE = "tidegate-operator"
TAKEOVER_SECONDS = 20
"""What is promised."""


@dataclass(frozen=True)
class Pair:
    """Two operators of one namespace, and what they write to."""

    regions: Regions
    tiers: TierClient
    operators: list[Program]

    def leader(self) -> Program | None:
        """The one that acts."""
        acting = [one for one in self.operators if not one.has_ended() and "this operator acts" in one.log.read_text()]
        return acting[-1] if acting else None

    def generations(self, name: str) -> list[int | None]:
        """Of that tier in each region."""
        return [region.stored().get(name) for region in self.regions]

    def revisions(self) -> list[int]:
        """What every write to a region changes."""
        return [region.revision() for region in self.regions]


@pytest.fixture(scope="module")
def own_regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    """Regions that no other operator keeps."""
    with two_regions(tmp_path_factory.mktemp("regions-of-two-operators")) as running:
        yield running


@pytest.fixture
def own_tiers(api: client.ApiClient, crd: Json) -> TierClient:
    """The tiers of a namespace of the test's own."""
    return TierClient(api, make_namespace(api))


@pytest.fixture
def account(own_tiers: TierClient, cluster: ControlPlane, built: Callable[[str], Path], kubectl: Kubectl) -> Path:
    """Signs in as the service account of two operators, which may do what the chart's Role says."""
    namespace = own_tiers.namespace
    rights = Helm(built("helm"), cluster, namespace).render_kinds(
        "ServiceAccount", "Role", "RoleBinding", options=("--set", "operator.replicas=2")
    )
    kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=yaml.safe_dump_all(rights))
    token = kubectl("create", "token", LEASE, "--namespace", namespace, "--duration", "1h").strip()
    return cluster.kubeconfig(f"{namespace}-{LEASE}", token)


@pytest.fixture
def pair(own_regions: Regions, own_tiers: TierClient, account: Path, tmp_path: Path) -> Iterator[Pair]:
    """Both run, one of them acts, and it has published a tier."""
    with ExitStack() as stack:
        operators = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            program = operator(tmp_path / name, own_regions, account, own_tiers.namespace, TIDEGATE_OPERATOR_LEASE=LEASE)
            operators.append(stack.enter_context(program))
        two = Pair(own_regions, own_tiers, operators)
        own_tiers.create("gold", limited(10))
        eventually(two.leader, seconds=TAKEOVER_SECONDS)
        eventually(lambda: two.generations("gold") == [1, 1], seconds=10)
        # The other one is ready, too: it watches, and looks at the lease.
        eventually(lambda: all("Initial authentication" in one.log.read_text() for one in operators), seconds=20)
        yield two


def other(pair: Pair, leader: Program) -> Program:
    return next(one for one in pair.operators if one is not leader)


@pytest.mark.parametrize("loss", [signal.SIGKILL, signal.SIGSTOP])
def test_another_operator_acts_within_twenty_seconds_of_the_loss_of_the_one_that_did(
    pair: Pair, loss: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed, or frozen with its connections open; a frozen one that wakes writes nothing more, and ends."""
    leader = pair.leader()
    assert leader
    successor = other(pair, leader)
    assert "tier written" not in successor.log.read_text()
    leader.send(loss)
    lost = time.monotonic()

    pair.tiers.edit("gold", **limited(20))
    eventually(lambda: pair.generations("gold") == [2, 2], seconds=TAKEOVER_SECONDS)
    seconds = time.monotonic() - lost
    pair.tiers.delete("gold")
    eventually(lambda: pair.generations("gold") == [None, None], seconds=5)

    with capsys.disabled():
        print(f"\n{loss.name}: another operator acted after {seconds:.1f} s")
    assert "tier written" in successor.log.read_text()
    revisions, versions, said = pair.revisions(), pair.tiers.versions(), leader.log.read_text()
    leader.send(signal.SIGCONT)
    eventually(leader.has_ended, seconds=15)
    # It would publish the deleted tier anew, which it knows of only by events that it has not read yet.
    assert (pair.revisions(), pair.tiers.versions()) == (revisions, versions)
    assert "tier written" not in leader.log.read_text().removeprefix(said)


def test_an_operator_that_is_stopped_in_order_hands_over_at_once(pair: Pair) -> None:
    """A rollout holds up no edit for the length of a lease."""
    leader = pair.leader()
    assert leader
    leader.send(signal.SIGTERM)
    # However long that takes on a busy machine: one that is killed hands nothing over.
    eventually(leader.has_ended, seconds=30)

    pair.tiers.edit("gold", **limited(20))

    eventually(lambda: pair.generations("gold") == [2, 2], seconds=6)


def test_an_operator_that_cannot_renew_its_lease_ends_before_another_may_act(pair: Pair, kubectl: Kubectl) -> None:
    """Its right to the lease is taken away, as if it were cut off from the API server alone."""
    leader = pair.leader()
    assert leader
    kubectl("delete", "rolebinding", LEASE, "--namespace", pair.tiers.namespace)
    begin = time.monotonic()

    eventually(leader.has_ended, seconds=15)

    assert time.monotonic() - begin >= 5
    assert "this operator ends" in leader.log.read_text()


def test_two_operators_may_use_their_lease_and_no_other(own_tiers: TierClient, account: Path, kubectl: Kubectl) -> None:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

    def granted(resource: str) -> list[str]:
        question = ("auth", "can-i", "--namespace", own_tiers.namespace, "--kubeconfig", str(account))
        return [verb for verb in verbs if kubectl(*question, verb, resource, check=False).strip() == "yes"]

    leases = "leases.coordination.k8s.io"
    assert granted(f"{leases}/{LEASE}") == ["get", "create", "patch"]
    assert granted(f"{leases}/another") == ["create"]
