"""`tidegate cache purge` against real lanes that a worker has filled."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis
from tests.redis.cache_stage import DEDICATED, SHARED, Api, Documents, document, publish, serving

from tidegate.cache.lane import Lane
from tidegate.cache.lanes import SHARED as SHARED_NAME
from tidegate.cache.sealing import LaneKeys
from tidegate.cli import main
from tidegate.contract.lanes import lane_password
from tidegate.contract.tier import Lane as LaneKind
from tidegate.local.keys import ISSUER, Keys
from tidegate.local.layout import Layout


@pytest.fixture
def lane_key(tmp_path: Path) -> Path:
    (tmp_path / "lane.key").write_bytes(b"l" * 32)
    return tmp_path / "lane.key"


@pytest.fixture
def lanes(valkeys: Callable[..., Any]) -> tuple[Any, Any]:
    """The shared one and that of tier `own`."""
    return valkeys(), valkeys()


@pytest.fixture
async def api(redis: Redis, valkey: Any, durable: Any, lanes: tuple[Any, Any], lane_key: Path, issuer: Any) -> AsyncIterator[Api]:
    shared, own = lanes
    async with own.client() as client:
        await client.config_set("requirepass", lane_password(lane_key.read_bytes(), document("own", DEDICATED)))
    settings = {"TIDEGATE_CACHE_URL": shared.url, "TIDEGATE_LANE_KEY_FILE": str(lane_key)}
    await publish(redis, document("own", DEDICATED, lane=own.url), document("pro", SHARED), document("lost", DEDICATED))
    async with serving(issuer, valkey.url, durable.url, Documents(), **settings) as opened:
        yield opened


@pytest.fixture
def command(valkey: Any, lanes: tuple[Any, Any], lane_key: Path, issuer: Any) -> Callable[..., Result]:
    """As in an API pod, whose variables say where."""
    urls = {"TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_CACHE_URL": lanes[0].url}
    environment = issuer.environment | urls | {"TIDEGATE_REGION": "dublin", "TIDEGATE_LANE_KEY_FILE": str(lane_key)}

    async def run(*arguments: str, **changes: str) -> Result:
        # The command has an event loop of its own, and this test's goes on meanwhile.
        return await asyncio.to_thread(CliRunner().invoke, main, ["cache", "purge", *arguments], env=environment | changes)

    return run


async def fill(api: Api) -> dict[str, bool]:
    """Ask for two paths by two tenants in two lanes; whether each was a hit."""
    hits = {}
    for tier in ("pro", "own"):
        for tenant in ("acme", "other"):
            for name in ("a", "b?page=2"):
                answer = await api.get(f"/v1/documents/{name}", token=api.token(tier, tenant))
                hits[f"{tier} {tenant} {name}"] = "; hit;" in answer.headers["Cache-Status"]
    return hits


async def test_all_of_a_customer_goes_from_every_lane_and_nothing_of_others(api: Api, command: Any) -> None:
    await fill(api)

    result = await command("--tenant", "acme")

    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(result.stdout.splitlines()) == ["dublin: Dedicated lane of own: 2 paths removed", "dublin: Shared lane: 2 paths removed"]
    assert {name for name, is_hit in (await fill(api)).items() if not is_hit} == {
        f"{tier} acme {name}" for tier in ("pro", "own") for name in ("a", "b?page=2")
    }


@pytest.mark.parametrize("uri", ["/v1/documents/b", "https://api.example/v1/documents/b?page=1", "/v1/documents/%62"])
async def test_one_path_goes_in_every_query(api: Api, command: Any, uri: str) -> None:
    await fill(api)

    result = await command("--tenant", "acme", "--uri", uri)

    assert result.exit_code == 0
    assert {name for name, is_hit in (await fill(api)).items() if not is_hit} == {"pro acme b?page=2", "own acme b?page=2"}


async def test_a_lane_that_is_away_is_named_and_the_others_are_purged(api: Api, command: Any, lanes: tuple[Any, Any]) -> None:
    await fill(api)
    lanes[1].kill()

    result = await command("--tenant", "acme")

    assert result.exit_code == 1
    assert result.stdout == "dublin: Shared lane: 2 paths removed\n"
    assert result.stderr == (
        "dublin: Dedicated lane of own: not removed, the cache lane does not answer as it must: ConnectionError\n"
        "tidegate: what could not be reached keeps what it has until that is too old: run this again when it answers\n"
    )


async def test_without_the_redis_of_its_region_the_shared_lane_is_purged_and_the_rest_is_named(api: Api, command: Any) -> None:
    await fill(api)

    result = await command("--tenant", "acme", TIDEGATE_REDIS_URL="redis://:canary@127.0.0.1:1")

    assert (result.exit_code, result.stdout) == (1, "dublin: Shared lane: 2 paths removed\n")
    assert result.stderr.startswith("dublin: Dedicated lanes: not removed, the Redis that names them does not answer as it must\n")
    assert "canary" not in result.output


async def test_a_region_that_is_away_keeps_nothing_from_being_removed_in_the_others(valkeys: Callable[..., Any]) -> None:
    """Of the local run, whose first region is dead here."""
    # A short path, as sockets need one.
    with tempfile.TemporaryDirectory() as state:
        layout = Layout.at(Path(state), Path(), 0)
        layout.make_directories()
        keys, dublin = Keys(layout.keys), layout.regions[1]
        for socket in (dublin.redis_socket, dublin.cache_socket):
            valkeys("--unixsocket", str(socket))
        async with Redis(unix_socket_path=str(dublin.cache_socket)) as client:
            lane = Lane(LaneKind.SHARED, LaneKeys(SHARED_NAME, keys.idempotency.read_bytes(), b"s" * 32), client, timeout_seconds=2)
            await lane.take(lane.place(f"{len(ISSUER)}:{ISSUER}|4:acme", "/v1/documents/a"), "owner", b"")

            result = await asyncio.to_thread(CliRunner().invoke, main, ["cache", "purge", "--tenant", "acme", "--state", state])

            assert await client.dbsize() == 0
    assert (result.exit_code, result.stdout) == (1, "dublin: Shared lane: 1 path removed\n")
    assert [line.split(",")[0] for line in result.stderr.splitlines()[:2]] == [
        "frankfurt: Dedicated lanes: not removed",
        "frankfurt: Shared lane: not removed",
    ]


@pytest.mark.parametrize(
    ("arguments", "changes", "status", "said"),
    [
        ((), {}, 2, "--tenant"),
        (("--tenant", "acme"), {"TIDEGATE_IDEMPOTENCY_KEY_FILE": ""}, 2, "--idempotency-key-file"),
        (("--tenant", "acme"), {"TIDEGATE_IDEMPOTENCY_KEY_FILE": "/nowhere/key"}, 2, "/nowhere/key"),
        (("--tenant", "acme"), {"TIDEGATE_REDIS_URL": "redis://:canary@host:port"}, 2, "--redis-url"),
        (("--tenant", "acme"), {"TIDEGATE_CACHE_URL": "http://:canary@host"}, 2, "--cache-url"),
        (("--tenant", "acme", "--uri", "http://["), {}, 2, "--uri"),
        (("--tenant", "acme", "--uri", "https://api.example"), {}, 2, "--uri"),
        (
            ("--tenant", "acme", "--state", "/nowhere"),
            {"TIDEGATE_REDIS_URL": "", "TIDEGATE_IDEMPOTENCY_KEY_FILE": ""},
            2,
            "no local run in /nowhere",
        ),
    ],
)
async def test_bad_input_is_refused_in_a_sentence(
    command: Any, arguments: tuple[str, ...], changes: dict[str, str], status: int, said: str
) -> None:
    result = await command(*arguments, **changes)

    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert "canary" not in result.output
    assert "Traceback" not in result.output
