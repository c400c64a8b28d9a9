"""A machine of the cluster: a network and a mount namespace, and a cgroup; called by `network.py`, `control_plane.py` and `nodes.py`.

Nothing names these namespaces but their processes, so that ending the processes of a cgroup takes network, mounts and firewall rules along.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.layout import STATE
from tests.kube.processes import eventually

CGROUPS = Path("/sys/fs/cgroup")
# All machines are below this cgroup: what is in it was started by this suite.
TREE = "tidegate"
# Of the processors, where each other process of the computer has 1024: what else it does must not be what a test of time limits measures.
SHARES = "16384"
# What the kubelet would set on the whole computer.
KERNEL_SETTINGS = {"kernel/panic": "10", "kernel/panic_on_oops": "1", "vm/overcommit_memory": "1"}
# Where the programs of a cluster write that cannot be told another place.
FOLDERS = ("/opt", "/usr/libexec", "/var/lib", "/var/log")
CLONE_NEWNET = 0x40000000
STOP_SECONDS = 20


class MachineUnfit(Exception):
    """This computer cannot run the cluster, and the message says why."""


@dataclass(frozen=True)
class Machine:
    """One machine by its name; it exists while a process is in its cgroup."""

    name: str

    @property
    def cgroup(self) -> str:
        """Its cgroup, below the mount of every controller; what the kubelet starts is in children of it."""
        return f"{TREE}/{self.name}"

    @property
    def init(self) -> int:
        """Process id of the first of its processes, which holds the namespaces. Raises IndexError while it isn't running."""
        return processes(f"{self.cgroup}/init")[0]

    def boot(self, disk: Path) -> None:
        """Make its namespaces; what it writes is on its `disk`, or in memory where that is /run."""
        make_cgroup(f"{self.cgroup}/init")
        make_cgroup(f"{self.cgroup}/system")
        mounts = ["mount -t tmpfs tmpfs /run", *own_folders(disk), *own_settings(disk)]
        script = " && ".join([*mounts, "ip link set lo up", "touch /run/booted", "exec sleep infinity"])
        isolated = ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", script]
        self._spawn("init", isolated, f"{self.cgroup}/init")
        eventually(self.is_up, seconds=STOP_SECONDS)

    def is_up(self) -> bool:
        """Whether its namespaces are made."""
        try:
            return self.is_running() and Path(f"/proc/{self.init}/root/run/booted").exists()
        except (IndexError, OSError):
            return False

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program that runs until it or the machine ends; it logs to `logs` of the cluster."""
        self._spawn(name, self.inside(command), f"{self.cgroup}/system")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command to its end and return what it prints. Raises AssertionError with its words when it fails."""
        done = subprocess.run(self.inside(command), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 or not check, f"{command} on {self.name}: {done.stderr}"
        return done.stdout

    def inside(self, command: Sequence[str]) -> list[str]:
        """A command as it is run in the namespaces of this machine."""
        return ["nsenter", "--target", str(self.init), "--mount", "--net", "--", *command]

    def is_running(self) -> bool:
        """Whether any process of it is left."""
        return bool(processes(self.cgroup))

    def kill(self, program: Path) -> None:
        """End one program at once, by its file; it is gone when this returns."""

        def is_gone() -> bool:
            found = [process for process in processes(f"{self.cgroup}/system") if program_of(process) == program]
            send(found, signal.SIGKILL)
            return not found

        eventually(is_gone, seconds=STOP_SECONDS)

    def lose_power(self) -> None:
        """End every process of it at once, pods too. It starts without their cgroups, each of which would take the kubelet 3 s."""
        kill(self.cgroup)
        eventually(lambda: is_removed(self.cgroup), seconds=STOP_SECONDS)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Have this thread, and what it starts, in the network of this machine for the length of the block."""
        with Path("/proc/self/ns/net").open() as own, Path(f"/proc/{self.init}/ns/net").open() as other:
            enter_network(other.fileno())
            try:
                yield
            finally:
                enter_network(own.fileno())

    def _spawn(self, name: str, command: Sequence[str], cgroup: str) -> None:
        join = " ".join(f"echo $$ > {folder / cgroup}/cgroup.procs;" for folder in hierarchies())
        log = STATE / "logs" / f"{self.name}-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            command = ["sh", "-c", f'{join} exec setsid --fork "$@"', name, *command]
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=STOP_SECONDS, check=True)


def own_folders(disk: Path) -> Iterator[str]:
    """Commands by which what a machine writes into some folders of the computer is on its own disk."""
    for folder in FOLDERS:
        own = disk / folder.strip("/").replace("/", "-")
        work = own.with_name(f"{own.name}.work")
        for path in (own, work):
            path.mkdir(parents=True, exist_ok=True)
        yield f"mount -t overlay overlay -o lowerdir={folder},upperdir={own},workdir={work} {folder}"


def own_settings(disk: Path) -> Iterator[str]:
    """Commands by which a machine can read the settings of the kernel, but not change them, and finds those that the kubelet wants."""
    for part in {Path(setting).parent for setting in KERNEL_SETTINGS}:
        yield f"mount --bind /proc/sys/{part} /proc/sys/{part} && mount -o remount,bind,ro /proc/sys/{part}"
    for setting, value in KERNEL_SETTINGS.items():
        own = disk / setting.replace("/", "-")
        own.write_text(value)
        yield f"mount --bind {own} /proc/sys/{setting}"


def enter_network(descriptor: int) -> None:
    """Move this thread to the network namespace of a descriptor."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def check_computer() -> None:
    """Raises MachineUnfit where no machine can be made: without root, or without cgroups of version 1, for which alone this was tried."""
    if os.geteuid() != 0:
        raise MachineUnfit("the cluster of the tests needs root, for its namespaces; elsewhere use kind: KUBECONFIG=... make test-cluster")
    if not any(folder.name == "memory" for folder in hierarchies()):
        raise MachineUnfit(
            "the cluster of the tests needs the controllers of cgroup version 1; elsewhere use kind: KUBECONFIG=... make test-cluster"
        )


def hierarchies() -> list[Path]:
    """Where each controller of the cgroups of version 1 is mounted."""
    return [folder for folder in CGROUPS.iterdir() if (folder / "tasks").exists()]


def make_cgroup(name: str) -> None:
    """Make a cgroup under every controller, with all processors and memory of the computer."""
    for folder in hierarchies():
        (folder / name).mkdir(parents=True, exist_ok=True)
        if folder.name == "cpuset":
            for inner in (*list(reversed(Path(name).parents))[1:], Path(name)):
                for setting in ("cpuset.cpus", "cpuset.mems"):
                    (folder / inner / setting).write_text((folder / setting).read_text())
        if folder.name == "cpu":
            (folder / TREE / "cpu.shares").write_text(SHARES)


def processes(cgroup: str) -> list[int]:
    """The processes of a cgroup and its children."""
    found = []
    for folder in folders(cgroup):
        with suppress(OSError):  # it has just gone
            found += [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    return found


def folders(cgroup: str) -> Iterator[Path]:
    """Where the cgroup and its children are; one that goes meanwhile is passed over, at which `Path.rglob` would raise."""
    return (Path(folder) for folder, _, _ in os.walk(CGROUPS / "pids" / cgroup))


def program_of(process: int) -> Path | None:
    """The file that a process runs; none when it has ended."""
    try:
        return Path(f"/proc/{process}/exe").readlink()
    except OSError:
        return None


def kill(cgroup: str) -> None:
    """End every process of a cgroup, and those that they start meanwhile."""

    def is_empty() -> bool:
        send(processes(cgroup), signal.SIGKILL)
        return not processes(cgroup)

    eventually(is_empty, seconds=STOP_SECONDS)


def send(found: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each of these processes; one that is gone already is fine."""
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def send_to_pod(node: str, uid: str, number: signal.Signals) -> None:
    """Send a signal to every process of a pod, once; one that is killed is started again by its kubelet."""
    for folder in folders(f"{Machine(node).cgroup}/kubepods"):
        if folder.name != f"pod{uid}":
            continue
        send(processes(str(folder.relative_to(CGROUPS / "pids"))), number)


def is_removed(name: str) -> bool:
    """Remove a cgroup that is empty, and its children, from every controller; false while the kernel hasn't let go of it."""
    try:
        # The runtime of containers makes one of version 2 as well, which counts nothing.
        for folder in CGROUPS.iterdir():
            for root, _, _ in os.walk(folder / name, topdown=False):
                Path(root).rmdir()
    except OSError:
        return False
    return True
