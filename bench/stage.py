"""What the benchmarks over HTTP share: a Valkey that knows a tier, tokens, one server after the other, and load upon it."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cores import BESIDE
from redis import Redis

from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.local.keys import AUDIENCE, ISSUER, Grant, Keys

IDENTITIES = 1_000
WINDOWS = {1: (("minute", "1m"),), 3: (("second", "1s"), ("minute", "1m"), ("hour", "1h"))}
_WRK = """local tokens, requests, at = {
%s
}, {}, 0
function init() for i, token in ipairs(tokens) do requests[i] = wrk.format("GET", nil, {Authorization = "Bearer " .. token}) end end
function request() at = at %% #requests + 1 return requests[at] end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    requests_per_second: float
    requests: int
    p99_milliseconds: float


class Stage:
    """Keys, tokens and settings in `folder`, and the Valkey at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self._issuer = Keys(folder / "keys")
        self._revision = 0

    @property
    def environment(self) -> dict[str, str]:
        """For a worker."""
        return os.environ | {
            "PYTHONPATH": "app:operator:.",
            "TIDEGATE_TOKEN_ISSUER": ISSUER,
            "TIDEGATE_TOKEN_AUDIENCE": AUDIENCE,
            "TIDEGATE_TOKEN_KEYS_FILE": str(self._issuer.token_keys),
            "TIDEGATE_IDENTITY_KEY_FILE": str(self._issuer.identity),
            "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(self._issuer.idempotency),
            "TIDEGATE_RESULT_KEY_FILE": str(self._issuer.result),
            "TIDEGATE_REGION": "bench",
            "TIDEGATE_REDIS_URL": self.url,
            "TIDEGATE_STORE_URL": self.url,
            "TIDEGATE_DRAIN_SECONDS": "0",
            # A machine that is busy elsewhere must not have what happens without Redis measured.
            "TIDEGATE_DECISION_TIMEOUT_SECONDS": "1",
        }

    def add_tier(self, name: str, windows: int, **spec: Any) -> None:
        """Publish a tier that never refuses, and write the requests of its 1,000 identities and of one."""
        limits = [{"name": window, "limit": 10**9, "period": period} for window, period in WINDOWS[windows]]
        document = TierDocument(Tier.from_spec(name, {"windows": limits, **spec}), uid=name, generation=1)
        self._revision += 1
        with Redis.from_url(self.url) as client:
            client.hset(keys.TIERS, name, encode_tier(document))
            client.set(keys.REVISION, self._revision)
        for identities in (1, IDENTITIES):
            self._requests(name, identities).write_text(_WRK % self.tokens(name, identities))

    def tokens(self, tier: str, tenants: int) -> str:
        """One token for each of so many customers, as elements of a Lua table."""
        grants = [Grant(tier, tenant=f"tenant-{number}", client=f"client-{number}") for number in range(tenants)]
        return ",\n".join(f'"{self._issuer.mint(grant)}"' for grant in grants)

    def token(self, tier: str, tenant: str) -> str:
        """One for a customer of that tier."""
        return self._issuer.mint(Grant(tier, tenant=tenant, client="client"))

    def load(self, url: str, tier: str, identities: int, seconds: int) -> Load:
        """64 connections that ask as fast as they are answered."""
        return self.run_wrk(url, self._requests(tier, identities), 64, seconds)

    @staticmethod
    def run_wrk(url: str, script: Path, connections: int, seconds: int) -> Load:
        """So many connections that ask what `script` says, as fast as they are answered."""
        if not shutil.which("wrk"):
            raise SystemExit("wrk is needed (Debian package wrk)")
        command = [*BESIDE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in out, out
        rate, p99 = re.search(r"Requests/sec:\s+([0-9.]+)", out), re.search(r"99%\s+([0-9.]+)(us|ms|s)", out)
        total = re.search(r"(\d+) requests in", out)
        assert rate, out
        assert p99, out
        assert total, out
        return Load(float(rate[1]), int(total[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]])

    def _requests(self, tier: str, identities: int) -> Path:
        return self.folder / f"{tier}-{identities}.lua"


def beside(program: str) -> str:
    """A program that was installed with this Python, or else one on PATH."""
    found = Path(sys.executable).parent / program
    return str(found) if found.exists() else shutil.which(program) or program


@contextmanager
def server(command: Sequence[str], url: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Start one and give its process, once it answers at `url`."""
    with subprocess.Popen(command, env=environment) as process:
        try:
            wait_until_ready(url)
            yield process.pid
        finally:
            process.terminate()


def wait_until_ready(url: str) -> None:
    """Ask until there is an answer."""
    for _ in range(400):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers at {url}")


def tree_microseconds(process_id: int) -> float:
    """CPU that a process and its children have spent, all threads together."""
    threads = list(Path(f"/proc/{process_id}/task").iterdir())
    own = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1000
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return own + sum(map(tree_microseconds, children))
