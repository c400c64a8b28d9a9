"""The machines themselves: nothing of them is on the computer, and nothing is left."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cluster.machines import CGROUPS, TREE, Machine, MachineUnfit, check_computer, hierarchies, is_removed, processes


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Machine]:
    """A machine beside those of the cluster."""
    machine = Machine("spare")
    machine.boot(tmp_path)
    yield machine
    machine.lose_power()
    if not processes(TREE):
        assert is_removed(TREE)


def test_without_root_the_message_says_what_else_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is built or started."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(MachineUnfit, match=r"needs root.*kind"):
        check_computer()


def visible() -> tuple[str, ...]:
    """What the computer has of networks, mounts and settings."""
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, timeout=10, check=True).stdout
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, timeout=10, check=True).stdout
    return links, namespaces, Path("/proc/self/mounts").read_text(), Path("/proc/sys/vm/overcommit_memory").read_text()


def test_what_a_machine_does_to_its_network_and_mounts_is_seen_by_itself_alone(spare: Machine, tmp_path: Path) -> None:
    """Interfaces, mounts, files in /run and in its own folders, and kernel settings, which it cannot change."""
    before = visible()

    spare.run("ip", "link", "add", "mine", "type", "bridge")
    spare.run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    spare.run("touch", "/run/mine", "/opt/mine")
    spare.run("sh", "-c", "echo 2 > /proc/sys/vm/overcommit_memory")
    refused = spare.run("sh", "-c", "echo 1 > /proc/sys/kernel/sysrq || echo refused", check=False)

    assert visible() == before
    assert "mine" in spare.run("ip", "-brief", "link")
    assert not Path("/run/mine").exists()
    assert not Path("/opt/mine").exists()
    assert (tmp_path / "opt/mine").exists()
    assert refused.strip() == "refused"


def test_a_machine_that_loses_power_leaves_neither_process_nor_cgroup(spare: Machine) -> None:
    """Nor one that left its parent and its session behind."""
    spare.start("stray", ["sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & exec sleep 1000"])
    assert processes(spare.cgroup)

    spare.lose_power()

    assert processes(spare.cgroup) == []
    assert not spare.is_running()
    assert not [folder for folder in hierarchies() if (folder / spare.cgroup).exists()]


def test_processes_are_found_while_cgroups_come_and_go(spare: Machine) -> None:
    """As those of pods do that a kubelet tidies up."""
    outer = CGROUPS / "pids" / spare.cgroup / "pod"

    def come_and_go() -> None:
        for _ in range(2_000):
            (outer / "container").mkdir(parents=True)
            (outer / "container").rmdir()
            outer.rmdir()

    with ThreadPoolExecutor(1) as pool:
        tidied = pool.submit(come_and_go)
        found = [processes(spare.cgroup) for _ in range(1_000)]

    tidied.result()
    assert {tuple(one) for one in found} == {tuple(processes(spare.cgroup))}
    assert found[0]
