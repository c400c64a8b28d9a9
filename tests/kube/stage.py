"""Two regions, each a Valkey and an API worker, and an operator with no more rights than the chart gives; called by the fixtures."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
from redis import Redis
from tests.conftest import Valkey
from tests.kube.processes import Program, eventually
from tests.ports import free_port

from tidegate.contract import keys
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys

DEFAULT_TIER = "free"
START_SECONDS = 20
# Longer than a busy machine is late: how soon a limit is enforced is measured, and not by this.
ANSWER_SECONDS = 10
UNTOLD = -1
"""Instead of a limit: the worker refused to answer, as while its Redis is away."""


@dataclass(frozen=True)
class Region:
    """One region: its Redis, and a worker whose answers say what it enforces."""

    name: str
    valkey: Valkey
    worker: Program
    http: httpx.Client
    keys: Keys

    def get(self, path: str, *, tier: str) -> httpx.Response:
        """`GET path` with a token that names `tier`."""
        return self.http.get(path, headers={"Authorization": f"Bearer {mint(self.keys, tier)}"})

    def limit(self, tier: str) -> int | None:
        """The limit that a token of `tier` meets in its first window; None while it is unknown here, `UNTOLD` where nothing is said."""
        answer = self.get("/v1/usage", tier=tier)
        if answer.status_code != httpx.codes.OK:
            return UNTOLD
        usage = answer.json()
        return int(usage["windows"][0]["limit"]) if usage["tier"] == tier else None

    def stored(self) -> dict[str, int]:
        """Names and generations of the tiers in its Redis."""
        with Redis(port=self.valkey.port) as redis:
            texts = redis.hgetall(keys.TIERS)
        return {name.decode(): json.loads(text)["generation"] for name, text in texts.items()}

    def revision(self) -> int:
        """How often, and when last, its tiers changed."""
        with Redis(port=self.valkey.port) as redis:
            return int(redis.get(keys.REVISION) or 0)


Regions = tuple[Region, Region]


@cache
def mint(signer: Keys, tier: str) -> str:
    """A token that names `tier`; signed once, for a signature takes longer than the request it is for."""
    return signer.mint(Grant(tier, client=tier))


@contextmanager
def two_regions(folder: Path) -> Iterator[Regions]:
    """Run both regions until the block ends; their workers aren't ready before an operator has published a tier."""
    signer = Keys(folder / "keys")
    with ExitStack() as stack:
        store = stack.enter_context(running(folder / "store", "--appendonly", "yes", "--appendfsync", "always"))
        regions = [stack.enter_context(region(folder / name, store, signer)) for name in ("frankfurt", "dublin")]
        yield regions[0], regions[1]


@contextmanager
def region(folder: Path, store: Valkey, signer: Keys) -> Iterator[Region]:
    """Run one region."""
    port = free_port()
    with running(folder) as valkey:
        environment = worker_environment(folder, valkey, store, signer)
        worker = Program(worker_command(port), folder / "worker.log", environment)
        with worker, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_SECONDS) as http:
            worker.wait_until(lambda: is_alive(http), seconds=START_SECONDS)
            yield Region(folder.name, valkey, worker, http, signer)


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[Valkey]:
    """Run a Valkey with its files in `folder`."""
    folder.mkdir()
    with Valkey(folder, *arguments) as server:
        yield server


def worker_command(port: int) -> list[str]:
    """gunicorn with one worker, configured as in production."""
    gunicorn = [sys.executable, "-m", "gunicorn", "tidegate.asgi:app", "-c", "python:tidegate.server.gunicorn_config"]
    return [*gunicorn, "--workers", "1", "--bind", f"127.0.0.1:{port}"]


def worker_environment(folder: Path, valkey: Valkey, store: Valkey, signer: Keys) -> dict[str, str]:
    """The settings of a region's worker."""
    return {
        "TIDEGATE_REGION": folder.name,
        "TIDEGATE_REDIS_URL": valkey.url,
        "TIDEGATE_STORE_URL": store.url,
        "TIDEGATE_TOKEN_ISSUER": ISSUER,
        "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
        "TIDEGATE_TOKEN_KEYS_FILE": str(signer.token_keys),
        "TIDEGATE_IDENTITY_KEY_FILE": str(signer.identity),
        "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(signer.idempotency),
        "TIDEGATE_RESULT_KEY_FILE": str(signer.result),
        "TIDEGATE_DEFAULT_TIER": DEFAULT_TIER,
        "TIDEGATE_DRAIN_SECONDS": "0",
        # A busy machine is late, and must not have a region's Redis count as lost.
        "TIDEGATE_DECISION_TIMEOUT_SECONDS": "1",
    }


def is_alive(http: httpx.Client) -> bool:
    """Whether the worker answers at all."""
    try:
        return http.get("/livez").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def watchers(valkey: Valkey) -> int:
    """How many operators watch the region of this Redis."""
    with Redis(port=valkey.port) as redis:
        return int(redis.pubsub_numsub(keys.WORKERS_CHANNEL)[0][1])


def operator(folder: Path, regions: Sequence[Region], kubeconfig: Path, namespace: str, **settings: str) -> Program:
    """An operator for these regions and one namespace, yet to be started; `settings` are more of its variables."""
    regions_file = folder / "regions.json"
    regions_file.write_text(json.dumps({region.name: region.valkey.url for region in regions}))
    command = [sys.executable, "-m", "kopf", "run", "-m", "tidegate_operator.handlers", "--standalone", "--namespace", namespace]
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "TIDEGATE_OPERATOR_NAMESPACE": namespace,
        "TIDEGATE_OPERATOR_REGIONS_FILE": str(regions_file),
    }
    return Program(command, folder / "operator.log", environment | settings)


def everywhere(regions: Sequence[Region], tier: str, limit: int | None, *, seconds: float = 10) -> None:
    """Wait until the workers of every region meet tokens of `tier` with `limit`; None: with another tier."""
    eventually(lambda: {region.limit(tier) for region in regions} == {limit}, seconds=seconds)


def seconds_until_enforced(regions: Sequence[Region], tier: str, limit: int) -> float:
    """How long the workers of both regions take to enforce a limit that was accepted just now."""
    started = time.monotonic()
    everywhere(regions, tier, limit)
    return time.monotonic() - started
