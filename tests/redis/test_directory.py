"""Directory mode as a process: manifests in a directory, a real region, a real worker's tier source."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tidegate.contract import keys
from tidegate.contract.codec import decode_tier
from tidegate.tiers.source import TierSource

Eventually = Callable[..., Awaitable[object]]


def manifest(name: str = "free", limit: int = 10) -> str:
    spec = {"windows": [{"name": "minute", "limit": limit, "period": "1m"}]}
    return json.dumps({"apiVersion": "tidegate.dev/v1alpha1", "kind": "RateLimitTier", "metadata": {"name": name}, "spec": spec})


class DirectoryOperator:
    """The process, its directory and its log."""

    def __init__(self, tmp_path: Path, server: Any) -> None:
        self.directory = tmp_path / "tiers"
        self.directory.mkdir()
        self._log = tmp_path / "log"
        self._regions = tmp_path / "regions.yaml"
        self._regions.write_text(json.dumps({"frankfurt": server.url}))
        self._server = server
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, file: str, text: str) -> None:
        (self.directory / file).write_text(text)

    def mount(self, version: str, file: str, text: str) -> None:
        """Replace what `..data` leads to, as the kubelet does."""
        before = (self.directory / "..data").resolve()
        folder, link = self.directory / f"..{version}", self.directory / "..data_tmp"
        folder.mkdir()
        (folder / file).write_text(text)
        link.symlink_to(folder.name)
        link.rename(self.directory / "..data")
        shutil.rmtree(before, ignore_errors=True)

    def start(self) -> None:
        command = [sys.executable, "-m", "tidegate_operator.directory", str(self.directory)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env={"TIDEGATE_OPERATOR_REGIONS_FILE": str(self._regions)})

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(5)

    def log(self) -> str:
        return self._log.read_text()

    def said(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.log()

    def holds(self, **limits: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            async with self._server.client() as client:
                texts = await client.hgetall(keys.TIERS)
            tiers = [decode_tier(name.decode(), text).tier for name, text in texts.items()]
            return {tier.name: tier.windows[0].limit for tier in tiers} == limits

        return check


@pytest.fixture
def operator(tmp_path: Path, valkey: Any) -> Iterator[DirectoryOperator]:
    operator = DirectoryOperator(tmp_path, valkey)
    yield operator
    if operator.process and operator.process.poll() is None:
        operator.process.kill()
        operator.process.wait(5)


@pytest.fixture
async def worker(valkey: Any) -> AsyncIterator[TierSource]:
    async with valkey.client(timeout=0.25) as client:
        source = TierSource(client, worker_id="worker", default_tier="free", last_good=None)
        await source.start()
        yield source
        await source.stop()


async def test_an_edit_is_enforced_within_a_second(operator: DirectoryOperator, worker: TierSource, eventually: Eventually):
    operator.write("free.yaml", manifest(limit=10))
    operator.start()
    await eventually(operator.said("tier free: enforced in frankfurt (1/1 workers) after "), 10)

    operator.write("free.yaml", manifest(limit=20))

    await eventually(lambda: worker.tier("free").windows[0].limit == 20, 1)
    await eventually(lambda: operator.log().count("tier free: enforced in frankfurt (1/1 workers) after ") == 2, 1)


async def test_a_half_written_manifest_keeps_the_last_good_one(operator: DirectoryOperator, eventually: Eventually):
    operator.write("free.yaml", manifest(limit=10))
    operator.start()
    await eventually(operator.holds(free=10), 10)

    operator.write("free.yaml", manifest(limit=20)[:-20])
    await eventually(operator.said("free.yaml: cannot be read"), 2)
    operator.write("free.yaml", "")
    await eventually(operator.said("free.yaml: holds no manifest"), 2)

    assert await operator.holds(free=10)()
    operator.write("free.yaml", manifest(limit=20))
    await eventually(operator.holds(free=20), 1)


async def test_an_invalid_manifest_is_refused_with_every_violation(operator: DirectoryOperator, eventually: Eventually):
    operator.write("free.yaml", manifest(limit=10))
    operator.start()
    await eventually(operator.holds(free=10), 10)

    operator.write("free.yaml", manifest(limit=0).replace('"1m"', '"1 minute"'))

    await eventually(operator.said("free.yaml: spec.windows[0].limit: "), 2)
    await eventually(operator.said("free.yaml: spec.windows[0].period: "), 1)
    assert await operator.holds(free=10)()


async def test_a_deleted_file_takes_its_tier_along(operator: DirectoryOperator, eventually: Eventually):
    operator.write("free.yaml", manifest())
    operator.write("pro.yaml", manifest("pro"))
    operator.start()
    await eventually(operator.holds(free=10, pro=10), 10)

    (operator.directory / "pro.yaml").unlink()

    await eventually(operator.holds(free=10), 1)


async def test_a_tier_of_two_files_is_an_error_and_the_first_file_wins(operator: DirectoryOperator, eventually: Eventually):
    operator.write("a.yaml", manifest(limit=10))
    operator.write("b.yaml", manifest(limit=20))

    operator.start()

    await eventually(operator.holds(free=10), 10)
    assert f"b.yaml: tier free is in {operator.directory / 'a.yaml'} too, and that file is taken" in operator.log()


async def test_an_operator_that_is_killed_at_its_first_write_to_an_empty_region_leaves_all_tiers_or_none(
    operator: DirectoryOperator, valkey: Any
):
    """What is not there then would be gone for customers until another one starts."""
    names = {f"tier-{number}" for number in range(500)}
    for name in names:
        operator.write(f"{name}.yaml", manifest(name))
    async with valkey.client(timeout=30) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(keys.TIERS_CHANNEL)
        operator.start()
        while (await pubsub.get_message(timeout=30))["type"] != "message":
            pass
        operator.process.kill()
        operator.process.wait(5)

        assert {name.decode() for name in await client.hkeys(keys.TIERS)} == names


async def test_a_broken_file_at_the_start_keeps_no_other_tier_from_an_empty_region(operator: DirectoryOperator, eventually: Eventually):
    operator.write("free.yaml", manifest())
    operator.write("pro.yaml", "spec: [")
    operator.start()
    await eventually(operator.holds(free=10), 10)

    operator.write("pro.yaml", manifest("pro"))

    await eventually(operator.holds(free=10, pro=10), 2)
    # As of any other write, the log tells of which tiers.
    await eventually(operator.said('"outcome": "filled"'), 2)
    assert all(f'"tier": "{name}"' in operator.log() for name in ("free", "pro"))


async def test_a_broken_file_at_the_start_retires_nothing(operator: DirectoryOperator, eventually: Eventually):
    """It may be the manifest of any published tier."""
    operator.write("free.yaml", manifest())
    operator.write("pro.yaml", manifest("pro"))
    operator.start()
    await eventually(operator.holds(free=10, pro=10), 10)
    operator.stop()
    operator.write("free.yaml", manifest(limit=20))
    operator.write("pro.yaml", "spec: [")

    operator.start()

    await eventually(operator.holds(free=20, pro=10), 10)


async def test_a_clock_that_went_back_is_a_warning_and_a_tier_that_is_made_anew_is_enforced(
    operator: DirectoryOperator, redis: Redis, eventually: Eventually
):
    """A file's generation is the time of its edit, and a region never goes back to an older one."""
    operator.write("free.yaml", manifest())
    operator.write("pro.yaml", manifest("pro"))
    operator.start()
    await eventually(operator.holds(free=10, pro=10), 10)
    operator.stop()
    stored = json.loads(await redis.hget(keys.TIERS, "pro"))
    await redis.hset(keys.TIERS, "pro", json.dumps(stored | {"generation": stored["generation"] + 3_600_000}))

    operator.write("pro.yaml", manifest("pro", limit=20))
    operator.start()
    await eventually(operator.said(f"tier pro: frankfurt: it keeps generation {stored['generation'] + 3_600_000}, newer than "), 10)
    assert await operator.holds(free=10, pro=10)()
    (operator.directory / "pro.yaml").unlink()
    await eventually(operator.holds(free=10), 2)
    operator.write("pro.yaml", manifest("pro", limit=20))

    await eventually(operator.holds(free=10, pro=20), 2)
    assert operator.log().count("it keeps generation") == 1


async def test_sigterm_ends_it_cleanly(operator: DirectoryOperator, eventually: Eventually):
    operator.write("free.yaml", manifest())
    operator.start()
    await eventually(operator.holds(free=10), 10)

    assert operator.stop() == 0
    assert "Traceback" not in operator.log()


def test_an_empty_directory_is_an_error(operator: DirectoryOperator):
    operator.start()

    assert operator.process.wait(10) == 2
    assert "holds no manifest" in operator.log()


def test_a_missing_directory_is_an_error(operator: DirectoryOperator):
    operator.directory.rmdir()

    operator.start()

    assert operator.process.wait(10) == 2
    assert "No such file or directory" in operator.log()


async def test_an_emptied_directory_retires_nothing(operator: DirectoryOperator, eventually: Eventually):
    """Whoever does that hardly means that every customer be refused."""
    operator.write("free.yaml", manifest())
    operator.start()
    await eventually(operator.holds(free=10))

    (operator.directory / "free.yaml").unlink()

    await eventually(operator.said("holds no manifest"))
    assert await operator.holds(free=10)()


async def test_a_directory_that_is_made_anew_is_followed(operator: DirectoryOperator, eventually: Eventually):
    """As a checkout or a sync does."""
    operator.write("free.yaml", manifest())
    operator.start()
    await eventually(operator.holds(free=10))

    operator.directory.rename(operator.directory.with_name("away"))
    operator.directory.mkdir()
    operator.write("free.yaml", manifest(limit=20))
    await eventually(operator.holds(free=20))
    operator.write("free.yaml", manifest(limit=30))

    await eventually(operator.holds(free=30), 2)


async def test_a_mounted_config_map_is_followed(operator: DirectoryOperator, eventually: Eventually):
    """Its files are links through `..data`, a link that is replaced; what it led to before is removed."""
    operator.mount("first", "free.yaml", manifest())
    (operator.directory / "free.yaml").symlink_to("..data/free.yaml")
    operator.start()
    await eventually(operator.holds(free=10), 10)

    for version, limit in (("second", 20), ("third", 30)):
        operator.mount(version, "free.yaml", manifest(limit=limit))

        await eventually(operator.holds(free=limit), 2)
