"""Two regions' API on one consistent store, and a payment provider: processes on loopback, each of which may be killed.

Made by the fixtures (`conftest.py`). Every program dies with the process of the tests, whatever becomes of that.
"""

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self

import httpx
from redis import Redis
from redis.exceptions import RedisError
from tests.conftest import valkey_binary
from tests.kube.processes import Program, eventually
from tests.ports import free_port
from tests.redis.conftest import Issuer

from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.idempotency.fault_points import FaultPoint

START_SECONDS = 30.0
PURCHASES, PAYMENTS = "/v1/credits/purchases", "/v1/payments"
TIER = Tier.from_spec("pro", {"windows": [{"name": "hour", "limit": 10**6, "period": "1h"}]})
LEASE_SECONDS = 2
"""How long a claim stands here: nobody waits for a real one."""
CLIENT_SECONDS = 15.0
"""Longer than anything takes that a test waits for, shorter than a test may take."""


class ValkeyServer:
    """A Valkey that keeps what it acknowledged, if it is told to; `options` go to its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        command = [valkey_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
        self.program = Program(command, folder / "log")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()

    def start(self) -> None:
        self.program.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.program.wait_until(self._answers, seconds=START_SECONDS)

    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=5)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


class Region:
    """One region's API: gunicorn with its workers, and a Valkey for the limits."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str], *, workers: int, ahead_seconds: int) -> None:
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ahead_seconds = ahead_seconds
        """How wrong the clock of its workers is."""
        self.log = folder / f"{name}.log"
        self.limits = ValkeyServer(folder / f"{name}-valkey")
        self._faults = folder / f"{name}-faults"
        self._faults.mkdir()
        own = {
            "TIDEGATE_REGION": name,
            "TIDEGATE_REDIS_URL": self.limits.url,
            # A busy machine is no loss of Redis.
            "TIDEGATE_DECISION_TIMEOUT_SECONDS": "5",
            "TIDEGATE_DRAIN_SECONDS": "0",
            "CHAOS_FAULTS": str(self._faults),
            "CHAOS_LEASE_SECONDS": str(LEASE_SECONDS),
            "CHAOS_CLOCK_SECONDS": str(ahead_seconds),
        }
        command = [sys.executable, "-m", "gunicorn", "-c", "python:tidegate.server.gunicorn_config", "tests.chaos.asgi:app"]
        command += ["--bind", f"127.0.0.1:{self.port}", "--workers", str(workers)]
        self.program = Program(command, self.log, {**own, **environment})

    def __enter__(self) -> Self:
        with self.limits.__enter__().client() as client:
            client.hset(keys.TIERS, TIER.name, encode_tier(TierDocument(TIER, uid="u", generation=1)))
            client.set(keys.REVISION, 1)
        self.program.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.limits.__exit__()

    def kill(self) -> None:
        """End the master and all workers at once."""
        self.program.kill()

    def start(self) -> None:
        self.program.start()

    def wait_until_ready(self) -> None:
        self.program.wait_until(self.is_ready, seconds=START_SECONDS)

    def is_ready(self) -> bool:
        return self._answers("/readyz")

    def is_live(self) -> bool:
        return self._answers("/livez")

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=CLIENT_SECONDS).status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        """Process ids."""
        assert self.program.process is not None
        master = self.program.process.pid
        return [int(worker) for worker in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def arm(self, point: FaultPoint, number: signal.Signals) -> None:
        """Have the worker that comes to `point` next sent a signal there."""
        part = self._faults / "part"
        part.write_text(number.name)
        part.rename(self._faults / point)

    def disarm(self, point: FaultPoint) -> bool:
        """Whether nobody has come to `point` since; nobody is sent the signal any more."""
        armed = self._faults / point
        is_armed = armed.exists()
        armed.unlink(missing_ok=True)
        return is_armed

    def victim(self) -> int:
        """The process that was sent the signal, as soon as that has stopped or ended it: what wakes it must not come before."""
        [file] = eventually(lambda: list(self._faults.glob("victim-*")), seconds=CLIENT_SECONDS)
        file.unlink()
        process = int(file.name.removeprefix("victim-"))
        eventually(lambda: not runs(process), seconds=CLIENT_SECONDS)
        return process

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """What its workers logged."""
        for line in self.log.read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line))["event"] == name:
                yield event


def runs(process: int) -> bool:
    """Whether a process is neither stopped nor at its end."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "TZX"


class Provider:
    """The payment provider; asked twice, it charges twice."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "tidegate.local.payment_provider", "--port", str(port)]
        self.program = Program(command, folder / "provider.log")

    def __enter__(self) -> Self:
        self.program.start()
        self.program.wait_until(self._answers, seconds=START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()

    def charges(self) -> list[list[dict[str, Any]]]:
        """Everything that was taken, effect by effect."""
        return list(httpx.get(f"{self.url}/charges").json().values())

    def taken(self, amount: int) -> list[int]:
        """How often each effect of this amount was charged."""
        return [len(charges) for charges in self.charges() if charges[0]["amount"] == amount]

    def fail(self, kind: str) -> None:
        """Fail at the next charge."""
        httpx.post(f"{self.url}/faults", json={"kind": kind}).raise_for_status()

    def recover(self) -> None:
        """Fail no more, and answer what was held."""
        httpx.post(f"{self.url}/faults", json={}).raise_for_status()

    def _answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/charges").status_code == 200)
        except httpx.TransportError:
            return False


class Stage:
    """All of it, and how to act on it."""

    def __init__(self, issuer: Issuer, regions: tuple[Region, Region], provider: Provider) -> None:
        self.issuer, self.regions, self.provider = issuer, regions, provider
        self._amounts = count(1)

    def amount(self) -> int:
        """One that nobody had before."""
        return next(self._amounts)

    def wait_until_ready(self) -> None:
        for region in self.regions:
            region.wait_until_ready()


@contextmanager
def stage_on(folder: Path, *store_urls: str, workers: int = 1, ahead_seconds: tuple[int, int] = (0, 0)) -> Iterator[Stage]:
    """A running stage on the store at one URL, or at one for each region; the clocks of the regions' workers are so much ahead."""
    issuer = Issuer(folder / "keys")
    with ExitStack() as running:
        provider = running.enter_context(Provider(folder))
        common = {
            **issuer.environment,
            "TIDEGATE_PAYMENTS_URL": provider.url,
            # These customers ask again more often than any should.
            "TIDEGATE_REPLAYS_PER_MINUTE": "1000000",
        }
        frankfurt, dublin = (
            running.enter_context(Region(name, folder, {**common, "TIDEGATE_STORE_URL": url}, workers=workers, ahead_seconds=ahead))
            for name, url, ahead in zip(("frankfurt", "dublin"), (store_urls * 2)[:2], ahead_seconds, strict=True)
        )
        stage = Stage(issuer, (frankfurt, dublin), provider)
        stage.wait_until_ready()
        yield stage
