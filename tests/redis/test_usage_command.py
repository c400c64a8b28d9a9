"""`tidegate usage` against a real Valkey that real limiters have charged: it looks without a trace, simulates, and forgets."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis
from tests.topologies import Sentinels

from tidegate.cli import main
from tidegate.connections.connect import connect_region
from tidegate.connections.url import RegionUrl
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.identity.principal import Principal
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.limits import inspection
from tidegate.limits.decision import Amounts
from tidegate.limits.redis import RedisLimiter
from tidegate.limits.sharded import ShardedLimiter
from tidegate.settings import read_secret
from tidegate_operator.publisher import Publisher

ISSUER = "https://issuer.example"
ACME = ("--tenant", "acme", "--client", "demo")
Command = Callable[..., Result]


def tier(name: str = "pro", *, partition_by: str = "Token", **windows: tuple[int, str]) -> Tier:
    spec = [{"name": window, "limit": limit, "period": period} for window, (limit, period) in windows.items()]
    return Tier.from_spec(name, {"partitionBy": partition_by, "windows": spec})


PRO = tier(minute=(10, "1m"), hour=(100, "1h"))
MANIFEST = """
apiVersion: tidegate.dev/v1alpha1
kind: RateLimitTier
metadata: {name: gold}
spec: {windows: [{name: tight, limit: 3, period: 1h}, {name: wide, limit: 50, period: 1h}]}
"""


@pytest.fixture
async def region(redis: Redis) -> Redis:
    for held in (PRO, tier("free", partition_by="Tenant", day=(5, "24h"))):
        await redis.hset(keys.TIERS, held.name, encode_tier(TierDocument(held, "u", 1)))
    return redis


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "identity.key").write_text("k" * 40)
    return tmp_path / "identity.key"


@pytest.fixture
def command(valkey: Any, key_file: Path) -> Command:
    """`tidegate usage` as in an API pod, whose variables say where."""
    environment = {"TIDEGATE_REDIS_URL": valkey.url, "TIDEGATE_IDENTITY_KEY_FILE": str(key_file), "TIDEGATE_TOKEN_ISSUER": ISSUER}

    def run(*arguments: str, typed: str = "", **changes: str) -> Result:
        return CliRunner().invoke(main, ["usage", *arguments], input=typed, env=environment | {"TIDEGATE_REGION": "dublin"} | changes)

    return run


def tids_of(*key_files: Path, tenant: str = "acme", client: str = "demo", held: Tier = PRO) -> tuple[str, ...]:
    principal = Principal(ISSUER, tenant, client, client, held.name, frozenset(), 0)
    return Pseudonyms(*map(read_secret, key_files)).tids(principal.partition(held.partition_by))


@pytest.fixture
async def limiter(redis: Redis) -> AsyncIterator[RedisLimiter]:
    made = RedisLimiter(redis, deadline_seconds=10)
    yield made
    await made.aclose()


async def charge(limiter: RedisLimiter, tids: tuple[str, ...], times: int, held: Tier = PRO) -> None:
    await asyncio.gather(*(limiter.decide(tids, held, Amounts()) for _ in range(times)))


async def contents(redis: Redis) -> dict[bytes, tuple[bytes, int]]:
    names = await redis.keys(keys.USAGES)
    return {name: (await redis.get(name), await redis.pexpiretime(name)) for name in names}


def rows(result: Result) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.startswith("  ")}


async def test_every_window_is_shown_and_nothing_is_charged_or_written(
    region: Redis, limiter: RedisLimiter, key_file: Path, command: Command
) -> None:
    await charge(limiter, tids_of(key_file), 10)
    before = await contents(region)

    results = [command(*ACME, "--tier", "pro") for _ in range(2)]

    assert [result.exit_code for result in results] == [0, 0]
    shown = rows(results[1])
    assert results[1].stdout.startswith("dublin: demo under tier pro\n")
    assert shown["minute"][:4] == ["Requests", "10", "10", "0"]
    assert shown["minute"][-4:-2] == ["refuses", "for"]
    assert shown["hour"][:4] == ["Requests", "100", "10", "90"]
    assert 3_590 < float(shown["hour"][4]) <= 3_960
    assert "refuses" not in shown["hour"]
    assert await contents(region) == before


async def test_a_tier_that_counts_by_tenant_needs_no_client(region: Redis, limiter: RedisLimiter, key_file: Path, command: Command) -> None:
    held = tier("free", partition_by="Tenant", day=(5, "24h"))
    await charge(limiter, tids_of(key_file, held=held), 2, held)

    result = command("--tenant", "acme", "--tier", "free")

    assert result.stdout.startswith("dublin: acme under tier free\n")
    assert rows(result)["day"][:4] == ["Requests", "5", "2", "3"]


@pytest.mark.parametrize("counted_under", [0, 1])
async def test_usage_under_either_key_is_found_and_forgotten(
    region: Redis, limiter: RedisLimiter, key_file: Path, command: Command, tmp_path: Path, counted_under: int
) -> None:
    """VEC-3: while a key is replaced, a vector may still be under the other name; and it stays there."""
    other = tmp_path / "identity.other.key"
    other.write_text("o" * 40)
    tids = tids_of(key_file, other)
    await charge(limiter, (tids[counted_under],), 4)
    before = await contents(region)

    shown = command(*ACME, "--tier", "pro", TIDEGATE_OTHER_IDENTITY_KEY_FILE=str(other))

    assert rows(shown)["minute"][2] == "4"
    assert await contents(region) == before
    command(*ACME, "--tier", "pro", "--reset", "--yes", TIDEGATE_OTHER_IDENTITY_KEY_FILE=str(other))
    assert await contents(region) == {}


async def test_a_reset_lets_the_customer_in_again_within_a_second(
    region: Redis, limiter: RedisLimiter, key_file: Path, command: Command, eventually: Callable[..., Any]
) -> None:
    tids, stranger = tids_of(key_file), tids_of(key_file, client="other")
    await charge(limiter, stranger, 1)
    await asyncio.gather(*(limiter.decide(tids, PRO, Amounts()) for _ in range(11)))

    result = command(*ACME, "--tier", "pro", "--reset", typed="demo\n")

    async def is_let_in() -> bool:
        return (await limiter.decide(tids, PRO, Amounts())).granted

    assert result.exit_code == 0
    assert "dublin: forgotten." in result.stdout
    assert "may repeat it for 1 s more" in result.stdout
    assert await region.exists(keys.usage(stranger[0])) == 1
    await eventually(is_let_in, 1.2)


@pytest.mark.parametrize(("typed", "status"), [("acme\n", 2), ("\n", 2), ("", 1)])
async def test_without_the_typed_name_nothing_is_forgotten(
    region: Redis, limiter: RedisLimiter, key_file: Path, command: Command, typed: str, status: int
) -> None:
    await charge(limiter, tids_of(key_file), 3)
    before = await contents(region)

    result = command(*ACME, "--tier", "pro", "--reset", typed=typed)

    assert result.exit_code == status
    assert await contents(region) == before


async def test_a_manifest_is_tried_without_a_trace(region: Redis, limiter: RedisLimiter, key_file: Path, command: Command) -> None:
    """The script would give the vector the windows of that tier, and they would count from then on."""
    await charge(limiter, tids_of(key_file), 4)
    before = await contents(region)

    used, unused = (command(*identity, "--simulate", "-", typed=MANIFEST) for identity in (ACME, ("--tenant", "x", "--client", "y")))

    assert "dublin: demo under the given tier gold" in used.stdout
    assert used.stdout.endswith("  Would be refused now by: tight\n")
    assert unused.stdout.endswith("  Would pass now\n")
    assert await contents(region) == before


async def test_all_identities_are_counted_in_batches(
    region: Redis, limiter: RedisLimiter, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "BATCH_KEYS", 10)
    held = tier(hour=(1_000, "1h"))
    for number in range(200):
        for _ in range(3 if number < 40 else 1):
            await limiter.decide((f"t{number}",), held, Amounts())
    await region.hset(keys.usage("of another kind"), "a", "b")
    (tmp_path / "gold.yaml").write_text(f"# Source: a template\n---\n{MANIFEST}\n---\n")
    before = await region.dbsize()
    await region.config_resetstat()

    result = command("--simulate", str(tmp_path / "gold.yaml"), "--all")

    statistics = await region.info("commandstats")
    assert result.stdout == "dublin: tier gold would refuse 40 of 200 identities now (by window: tight 40)\n"
    assert statistics["cmdstat_scan"]["calls"] >= 15
    assert {name for name in statistics if name.startswith("cmdstat_")} <= {
        f"cmdstat_{name}"
        for name in ("scan", "mget", "time", "multi", "exec", "hello", "client|setinfo", "info", "config|resetstat", "select")
    }
    assert await region.dbsize() == before


async def test_a_key_that_a_scan_names_twice_is_counted_once(
    region: Redis, limiter: RedisLimiter, command: Command, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis does so while its table is resized."""
    await charge(limiter, tids_of(key_file), 1)
    names = await region.keys(keys.USAGES)
    monkeypatch.setattr(inspection.RegionUsage, "_batches", lambda asked: iter([(asked._primaries.all()[0], names)] * 2))

    assert "of 1 identities" in command("--simulate", "-", "--all", typed=MANIFEST).stdout


async def test_a_count_of_too_many_says_that_it_ended(
    region: Redis, limiter: RedisLimiter, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "BATCH_KEYS", 10)
    monkeypatch.setattr(inspection, "MOST_IDENTITIES", 20)
    await asyncio.gather(*(limiter.decide((f"t{number}",), PRO, Amounts()) for number in range(100)))

    result = command("--simulate", "-", "--all", typed=MANIFEST)

    (counted,) = re.findall(r"would refuse 0 of the first (\d+) identities", result.stdout)
    assert 20 <= int(counted) < 100


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        ((), {}, "--tenant"),
        (ACME, {}, "--tier"),
        (("--tenant", "acme", "--tier", "pro"), {}, "--client"),
        ((*ACME, "--tier", "gold"), {}, "dublin has no tier 'gold', but: free, pro"),
        ((*ACME, "--all"), {}, "--all goes with --simulate"),
        ((*ACME, "--simulate", "-", "--reset"), {}, "--reset"),
        ((*ACME, "--simulate", "/nowhere/gold.yaml"), {}, "/nowhere/gold.yaml"),
        ((*ACME, "--tier", "pro"), {"TIDEGATE_IDENTITY_KEY_FILE": "/nowhere/key"}, "/nowhere/key"),
        ((*ACME, "--tier", "pro"), {"TIDEGATE_IDENTITY_KEY_FILE": ""}, "TIDEGATE_IDENTITY_KEY_FILE"),
        ((*ACME, "--tier", "pro"), {"TIDEGATE_TOKEN_ISSUER": ""}, "TIDEGATE_TOKEN_ISSUER"),
        ((*ACME, "--tier", "pro"), {"TIDEGATE_REDIS_URL": ""}, "TIDEGATE_REDIS_URL"),
        ((*ACME, "--tier", "pro"), {"TIDEGATE_REDIS_URL": "redis://:canary@host:port"}, "--redis-url"),
        (
            (*ACME, "--tier", "pro", "--state", "/nowhere"),
            {"TIDEGATE_REDIS_URL": "", "TIDEGATE_IDENTITY_KEY_FILE": ""},
            "no local run in /nowhere",
        ),
    ],
)
async def test_bad_input_is_refused_in_a_sentence(
    region: Redis, command: Command, arguments: tuple[str, ...], changes: dict[str, str], said: str
) -> None:
    result = command(*arguments, **changes)

    assert result.exit_code == 2
    assert said in result.stderr
    assert "canary" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (MANIFEST.replace("limit: 3", "limit: 0"), "spec.windows[0].limit"),
        (MANIFEST.replace("RateLimitTier", "Pod"), "it holds: none"),
        (MANIFEST + "---" + MANIFEST.replace("gold", "silver"), "it holds: gold, silver"),
        ("[", "not a manifest"),
        ("gold", "not a manifest"),
    ],
)
def test_a_wrong_manifest_is_refused_in_a_sentence(command: Command, manifest: str, said: str) -> None:
    result = command(*ACME, "--simulate", "-", typed=manifest)

    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unreachable_redis_is_status_1_and_no_traceback(command: Command, port: int) -> None:
    result = command(*ACME, "--tier", "pro", TIDEGATE_REDIS_URL=f"redis://:canary@127.0.0.1:{port}")

    assert result.exit_code == 1
    assert result.stderr == "tidegate: the Redis of dublin does not answer as it must: ConnectionError\n"


async def test_no_output_holds_a_pseudonym_or_a_key(region: Redis, limiter: RedisLimiter, key_file: Path, command: Command) -> None:
    await charge(limiter, tids_of(key_file), 1)

    output = command(*ACME, "--tier", "pro", "--reset", "--yes").output

    assert tids_of(key_file)[0] not in output
    assert "k" * 40 not in output


# --- other forms of a region -----------------------------------------------------------------------------------------------


async def test_usage_on_a_cluster_is_found_in_its_shard_counted_and_forgotten(cluster: Any, key_file: Path, command: Command) -> None:
    shards = {"TIDEGATE_REDIS_URL": cluster.url, "TIDEGATE_LIMITS_SHARDS": "12", "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(key_file)}
    pseudonyms = Pseudonyms(read_secret(key_file), shards=12, shard_key=read_secret(key_file))
    redis = connect_region(RegionUrl(cluster.url), timeout_seconds=1)
    publisher = Publisher.connect("dublin", cluster.url, timeout_seconds=1)
    limiter = ShardedLimiter(redis, 12)
    await publisher.fill([TierDocument(PRO, "u", 1)])
    for client in ("demo", *map(str, range(20))):
        partition = Principal(ISSUER, "acme", client, client, "pro", frozenset(), 0).partition(PRO.partition_by)
        for _ in range(4):
            await limiter.decide(pseudonyms.tids(partition), PRO, Amounts())
    for opened in (limiter, redis, publisher):
        await opened.aclose()

    shown = command(*ACME, "--tier", "pro", **shards)
    everyone = command("--simulate", "-", "--all", typed=MANIFEST, **shards)
    forgotten = command(*ACME, "--tier", "pro", "--reset", "--yes", **shards)

    assert rows(shown)["minute"][2] == "4"
    assert "21" in everyone.output
    assert "dublin: forgotten." in forgotten.output
    assert rows(command(*ACME, "--tier", "pro", **shards))["minute"][2] == "0"


async def test_usage_behind_sentinels_is_found(
    region: Redis, limiter: RedisLimiter, valkey: Any, valkeys: Any, tmp_path: Path, key_file: Path, command: Command
) -> None:
    await charge(limiter, tids_of(key_file), 4)
    watched = Sentinels(valkeys, tmp_path, primary=valkey, number=1)

    assert rows(command(*ACME, "--tier", "pro", TIDEGATE_REDIS_URL=watched.url))["minute"][2] == "4"


def test_without_the_key_that_chooses_shards_nothing_is_shown(command: Command) -> None:
    """It would say that nothing was used."""
    result = command(*ACME, "--tier", "pro", TIDEGATE_LIMITS_SHARDS="12")

    assert result.exit_code == 2
    assert "--idempotency-key-file" in result.output


def test_a_cluster_that_is_gone_is_status_1(command: Command, port: int) -> None:
    result = command(*ACME, "--tier", "pro", TIDEGATE_REDIS_URL=f"redis+cluster://127.0.0.1:{port}")

    assert result.exit_code == 1
