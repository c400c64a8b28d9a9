"""Where everything of a local run lives: files, sockets and ports; called by every other module of this room."""

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Self
from urllib.parse import quote

from tidegate.local.errors import LocalRunError

REGION_NAMES = ("frankfurt", "dublin")
LANE_TIER = "enterprise"
"""The sample tier that has a dedicated cache lane in each region; those of other tiers are not run."""
PORTS_PER_REGION = 10
"""Edge on the first, API on the second; the rest keeps the regions' numbers easy to tell apart."""
MARKER = "local-run-of-tidegate"
"""Empty file by which a state directory is known, so that nobody's own directory is taken for one."""
MAXIMUM_SOCKET_PATH_BYTES = 107
"""`sun_path` of Linux without its final zero; longer paths cannot be bound."""
SOCKET_SUFFIX_BYTES = 8
"""supervisord binds `NAME.PID` first and renames it."""


@dataclass(frozen=True, slots=True)
class Region:
    """One region of the run: its name, its directory and its two loopback ports."""

    name: str
    directory: Path
    edge_port: int
    api_port: int

    @property
    def redis_socket(self) -> Path:
        """Unix socket of the region's Redis."""
        return self.directory / "redis.sock"

    @property
    def cache_socket(self) -> Path:
        """Unix socket of the region's shared cache lane."""
        return self.directory / "cache.sock"

    @property
    def edge_config(self) -> Path:
        """Bootstrap of the region's Envoy."""
        return self.directory / "edge.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path and port of one run.

    Args:
        state: Directory that holds the run; absolute.
        tiers: Directory of tier manifests that the operator watches; absolute.
        regions: The regions, the first being the one that the tour kills.
        payments_port: Loopback port of the payment provider.
    """

    state: Path
    tiers: Path
    regions: tuple[Region, ...]
    payments_port: int

    @classmethod
    def at(cls, state: Path, tiers: Path, first_port: int) -> Self:
        """The layout in directory `state`: edges on `first_port` and ten above, APIs one above each, the payment provider twenty above.

        A `first_port` of 0 takes any free ports.
        """
        state = Path(os.path.abspath(state))  # noqa: PTH100 - resolve() would follow links and lengthen socket paths
        if first_port:
            ports = [(first_port + PORTS_PER_REGION * n, first_port + PORTS_PER_REGION * n + 1) for n in range(len(REGION_NAMES))]
            payments_port = first_port + PORTS_PER_REGION * len(REGION_NAMES)
        else:
            payments_port, *free = _free_ports(1 + 2 * len(REGION_NAMES))
            ports = list(zip(free[::2], free[1::2], strict=True))
        regions = tuple(Region(name, state / name, edge, api) for name, (edge, api) in zip(REGION_NAMES, ports, strict=True))
        return cls(state, tiers.absolute(), regions, payments_port)

    @property
    def store(self) -> Path:
        """Directory of the consistent store; outlives a run."""
        return self.state / "store"

    @property
    def store_socket(self) -> Path:
        """Unix socket of the consistent store's Valkey."""
        return self.store / "redis.sock"

    @property
    def charges(self) -> Path:
        """What the payment provider has taken; outlives a run, as the results in the store do."""
        return self.state / "charges.jsonl"

    @property
    def payments_url(self) -> str:
        """Address of the payment provider."""
        return f"http://127.0.0.1:{self.payments_port}"

    @property
    def keys(self) -> Path:
        """Directory of generated keys; outlives a run."""
        return self.state / "keys"

    @property
    def logs(self) -> Path:
        """Directory of one log file per process, started anew with each run."""
        return self.state / "logs"

    @property
    def supervisor_socket(self) -> Path:
        """Unix socket on which supervisord takes commands."""
        return self.state / "supervisor.sock"

    @property
    def operator_regions(self) -> Path:
        """The operator's mapping of region names to Redis URLs."""
        return self.state / "regions.json"

    def sockets(self) -> tuple[Path, ...]:
        """Every unix socket of the run."""
        of_regions = ((region.redis_socket, region.cache_socket, self.lane_socket(region)) for region in self.regions)
        return (self.supervisor_socket, self.store_socket, *chain.from_iterable(of_regions))

    @property
    def lanes_url(self) -> str:
        """Address of dedicated cache lanes, for any `{tier}` and `{region}`."""
        return f"{redis_url(self.state)}/{{tier}}/{{region}}"

    def lane_socket(self, region: Region) -> Path:
        """Unix socket of the dedicated cache lane of `LANE_TIER`; as short as the others, for socket paths are bounded."""
        return self.state / LANE_TIER / region.name

    def log(self, program: str) -> Path:
        """Log file of a process."""
        return self.logs / f"{program}.log"

    def make_directories(self) -> None:
        """Create what is missing, readable by the owner alone.

        Raises:
            LocalRunError: A socket's path would be too long, or a directory cannot be made.
        """
        longest = max((os.fsencode(path) for path in self.sockets()), key=len)
        if len(longest) + SOCKET_SUFFIX_BYTES > MAXIMUM_SOCKET_PATH_BYTES:
            raise LocalRunError(
                f"the socket path {os.fsdecode(longest)} is too long: {len(longest)} bytes, unix sockets allow "
                f"{MAXIMUM_SOCKET_PATH_BYTES - SOCKET_SUFFIX_BYTES}; choose a shorter directory, as in --state /tmp/tidegate"
            )
        for path in (self.state, self.tiers):
            if any(mark in str(path) for mark in (" #", " ;")):
                raise LocalRunError(f"the path {path} has a comment sign of supervisord in it: choose one without ' #' and ' ;'")
        self.claim()
        for path in (self.store, self.keys, self.logs, self.state / LANE_TIER, *(region.directory for region in self.regions)):
            make_private_directory(path)

    def claim(self) -> None:
        """Make the state directory ours: create it, or find that it is ours already.

        Raises:
            LocalRunError: It holds something else, or cannot be read or written.
        """
        marker = self.state / MARKER
        # Directories of runs before there was a marker are known by their key.
        is_ours = marker.exists() or (self.keys / "issuer.pem").exists()
        try:
            if self.state.is_dir() and not is_ours and any(self.state.iterdir()):
                raise LocalRunError(f"the directory {self.state} holds something else: choose another --state, or an empty one")
            make_private_directory(self.state)
            marker.touch()
        except OSError as ex:
            raise LocalRunError(f"cannot use the directory {self.state}: {ex.strerror}") from ex


def make_private_directory(path: Path) -> None:
    """Create a directory for the owner alone, if it is missing.

    Raises:
        LocalRunError: It cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as ex:
        raise LocalRunError(f"cannot make the directory {path}: {ex.strerror}") from ex


def redis_url(path: Path) -> str:
    """URL of a Redis on a unix socket."""
    return f"unix://{quote(str(path))}"


def _free_ports(count: int) -> list[int]:
    # All are held at once, or the system might give the same one twice.
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
