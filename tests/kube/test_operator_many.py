"""The operator with many tiers: how soon all are enforced, in how much memory. MANY_TIERS says how many; 1000 by default."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kubernetes import client
from tests.kube.conftest import make_namespace
from tests.kube.control_plane import ControlPlane
from tests.kube.processes import Program, eventually
from tests.kube.stage import Regions, operator, seconds_until_enforced, two_regions
from tests.kube.tiers import Json, TierClient, limited

MANY = int(os.environ.get("MANY_TIERS", "1000"))
MEMORY_LIMIT_MEBIBYTES = 256
"""What the chart gives the operator."""


@pytest.fixture
def own_regions(tmp_path: Path) -> Iterator[Regions]:
    """Regions that no other operator keeps."""
    with two_regions(tmp_path) as running:
        yield running


@pytest.mark.timeout(60 + MANY / 10)
def test_all_of_many_tiers_are_enforced_within_the_memory_of_the_chart(
    own_regions: Regions, api: client.ApiClient, crd: Json, cluster: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made as fast as the API server takes them; an edit among them is as quick as ever."""
    tiers = TierClient(api, make_namespace(api))
    names = [f"many-{number}" for number in range(MANY)]
    with operator(tmp_path, own_regions, cluster.admin_kubeconfig, tiers.namespace) as program, ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        list(pool.map(lambda name: tiers.create(name, limited(10)), names))
        created = time.monotonic()
        eventually(lambda: tiers.is_ready(names[-1]), seconds=MANY / 20)
        eventually(tiers.all_ready, seconds=MANY / 20)
        ready = time.monotonic()
        tiers.edit(names[0], **limited(20))
        edited = seconds_until_enforced(own_regions, names[0], 20)
        now, peak = memory_mebibytes(program)

    with capsys.disabled():
        print(f"\n{MANY} tiers: made in {created - started:.1f} s, all Ready {ready - created:.1f} s later;", end=" ")
        print(f"an edit enforced in {edited:.2f} s; the operator holds {now:.0f} MiB, {peak:.0f} MiB at most")
    assert peak < MEMORY_LIMIT_MEBIBYTES


def memory_mebibytes(program: Program) -> tuple[float, float]:
    """Resident memory of a process, now and at most."""
    assert program.process is not None
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{program.process.pid}/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
