"""`tidegate mutations` on a real Valkey: what it shows of each state, and that it resolves what is unknown and nothing else."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Output
from redis.asyncio import Redis
from tests.conftest import TIDEGATE, Valkey

from tidegate.cli import main
from tidegate.idempotency.journal import Journal, lease_key
from tidegate.idempotency.key import storage_name
from tidegate.idempotency.record import Claim, Result
from tidegate.idempotency.sealing import Sealer
from tidegate.identity.principal import Principal
from tidegate.store.base import ABSENT, Write
from tidegate.store.redis import RedisStore

ISSUER = "https://issuer.example"
KEY = "0197a5c0-6f1e-7cc3-98c8-d1f5a2b3c4d5"
WHICH = ("--tenant", "acme", "--client", "demo", "--key", KEY)
NAME = storage_name(b"k" * 40, Principal(ISSUER, "acme", "demo", "demo", "", frozenset(), 0), KEY)
RESULT = Result(fingerprint=b"f" * 32, status=201, headers={"location": "/v1/payments/ch_1"}, body=b'{"secret": "of a customer"}')
CLAIM = Claim(fingerprint=b"f" * 32, effect_id="e" * 32, owner="o" * 16, fencing=3, started_at=0.0)
Command = Callable[..., Output]


@pytest.fixture
def environment(valkey: Valkey, tmp_path: Path) -> dict[str, str]:
    for name in ("idempotency", "result"):
        (tmp_path / f"{name}.key").write_bytes(name[:1].replace("i", "k").encode() * 40)
    return {
        "TIDEGATE_STORE_URL": valkey.url,
        "TIDEGATE_IDEMPOTENCY_KEY_FILE": str(tmp_path / "idempotency.key"),
        "TIDEGATE_RESULT_KEY_FILE": str(tmp_path / "result.key"),
        "TIDEGATE_TOKEN_ISSUER": ISSUER,
    }


@pytest.fixture
async def command(environment: dict[str, str]) -> Command:
    async def run(deed: str, *arguments: str, typed: str = "", **changes: str) -> Output:
        # In a thread, as it brings an event loop of its own.
        runner = CliRunner()
        return await asyncio.to_thread(runner.invoke, main, ["mutations", deed, *arguments], input=typed, env=environment | changes)

    return run


@pytest.fixture
async def journal(redis: Redis, valkey: Valkey) -> AsyncIterator[Journal]:
    store = RedisStore(valkey.client())
    yield Journal(store, Sealer(b"r" * 40))
    await store.close()


async def put(journal: Journal, result: Result, *, tombstone_seconds: int = 0) -> None:
    await journal.store.commit({}, journal.finish(NAME, result, fencing=0, retention_seconds=60, tombstone_seconds=tombstone_seconds))


async def put_claim(journal: Journal, claim: Claim = CLAIM, *, is_live: bool = False) -> None:
    await journal.claim(NAME, claim, version=ABSENT)
    if not is_live:
        await journal.store.commit({}, [Write(lease_key(NAME), None)])


async def test_each_state_is_told_and_nothing_of_a_customers_data(journal: Journal, command: Command) -> None:
    shown = [(await command("show", *WHICH)).output]
    await put_claim(journal, is_live=True)
    shown.append((await command("show", *WHICH)).output)
    await journal.store.commit({}, [Write(lease_key(NAME), None)])
    shown.append((await command("show", *WHICH)).output)
    await put(journal, RESULT, tombstone_seconds=120)
    shown.append((await command("show", *WHICH)).output)
    await journal.store.commit({}, [Write(f"result/{NAME}", None)])
    shown.append((await command("show", *WHICH)).output)

    assert [text.split(":")[0] for text in shown] == ["unknown", "in progress", "outcome unknown", "done", "done"]
    assert f"effect id {CLAIM.effect_id}, fencing number 3" in shown[2]
    assert "status 201, 27 bytes\n  location: /v1/payments/ch_1" in shown[3]
    assert "kept no longer" in shown[4]
    assert not any("of a customer" in text or KEY in text for text in shown)


@pytest.mark.parametrize("text", [f'"{KEY}"', KEY])
async def test_the_key_may_have_its_quotes(journal: Journal, command: Command, text: str) -> None:
    await put(journal, RESULT)

    assert (await command("show", *WHICH[:-1], text)).output.startswith("done")


async def test_an_outcome_without_effect_is_left_to_the_next_retry(journal: Journal, command: Command) -> None:
    """IDEM-12; the fencing number is kept, so a late owner stays fenced off."""
    await put_claim(journal)

    done = await command("resolve", *WHICH, "--no-effect", typed="acme\n")

    found = await journal.look_up(NAME)
    assert done.exit_code == 0, done.output
    assert "resolved by hand: without effect" in done.output
    assert isinstance(found.record, Claim)
    assert (found.record.is_absent, found.record.fencing, found.is_live) == (True, 3, False)


@pytest.mark.parametrize(("status", "content_type"), [(201, "application/json"), (402, "application/problem+json")])
async def test_an_outcome_that_is_known_to_a_person_is_what_retries_get(
    journal: Journal, command: Command, redis: Redis, status: int, content_type: str
) -> None:
    """For a month, for people will ask again."""
    await put_claim(journal)

    done = await command("resolve", *WHICH, "--status", f"{status}", "--body", "-", "--yes", typed='{"id": "ch_1"}')

    found = await journal.look_up(NAME)
    assert done.exit_code == 0, done.output
    assert found.record == Result(
        fingerprint=CLAIM.fingerprint, status=status, headers={"content-type": content_type}, body=b'{"id": "ch_1"}'
    )
    assert await redis.keys("*lease*") == []
    (name,) = await redis.keys("*result*")
    assert await redis.ttl(name) > 30 * 86_400


async def test_a_subject_of_its_own_has_mutations_of_its_own(journal: Journal, command: Command) -> None:
    await put(journal, RESULT)

    shown = [(await command("show", *WHICH, "--subject", subject)).output for subject in ("demo", "ann")]

    assert [text.split(":")[0] for text in shown] == ["done", "unknown"]


@pytest.mark.parametrize("state", ["nothing", "live", "done", "gone"])
async def test_only_an_unknown_outcome_can_be_resolved(journal: Journal, command: Command, state: str) -> None:
    if state == "live":
        await put_claim(journal, is_live=True)
    if state in ("done", "gone"):
        await put(journal, RESULT, tombstone_seconds=120)
    if state == "gone":
        await journal.store.commit({}, [Write(f"result/{NAME}", None)])
    before = await journal.look_up(NAME)

    refused = await command("resolve", *WHICH, "--no-effect", "--yes")

    assert refused.exit_code == 1
    assert ("a worker is at it" if state == "live" else "nothing to resolve") in refused.output
    assert await journal.look_up(NAME) == before


async def test_another_name_than_the_tenants_changes_nothing(journal: Journal, command: Command) -> None:
    await put_claim(journal)
    before = await journal.look_up(NAME)

    refused = await command("resolve", *WHICH, "--no-effect", typed="globex\n")

    assert (refused.exit_code, "nothing was changed" in refused.output) == (2, True)
    assert await journal.look_up(NAME) == before


async def test_a_retry_that_is_quicker_wins(journal: Journal, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the operator reads, a worker takes the claim over."""
    await put_claim(journal)
    original = Journal.mark_absent

    async def after_another(self: Journal, name: str, claim: Claim, *, version: int) -> object:
        await self.claim(name, claim, version=version)
        return await original(self, name, claim, version=version)

    monkeypatch.setattr(Journal, "mark_absent", after_another)
    refused = await command("resolve", *WHICH, "--no-effect", "--yes")

    assert (refused.exit_code, "has changed meanwhile" in refused.output) == (1, True)
    assert (await journal.look_up(NAME)).is_live


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (("resolve", *WHICH), {}, "--no-effect or --status"),
        (("resolve", *WHICH, "--no-effect", "--status", "201"), {}, "--no-effect or --status"),
        (("resolve", *WHICH, "--status", "500"), {}, "--status"),
        (("resolve", *WHICH, "--status", "429"), {}, "asks for another attempt"),
        (("resolve", *WHICH, "--status", "201", "--body", __file__), {}, "not JSON"),
        (("resolve", *WHICH, "--status", "201", "--body", "/dev/zero"), {}, "more than 65536 bytes"),
        (("resolve", *WHICH, "--status", "204", "--body", "/etc/hostname"), {}, "has no body"),
        (("show", "--tenant", "acme\udcff", "--client", "demo", "--key", KEY), {}, "printable"),
        (
            ("show", *WHICH),
            {
                "TIDEGATE_STORE_URL": "",
                "TIDEGATE_RESULT_KEY_FILE": "",
                "TIDEGATE_IDEMPOTENCY_KEY_FILE": "",
                "TIDEGATE_OTHER_RESULT_KEY_FILE": "/x",
            },
            "go together",
        ),
        (("show", "--tenant", "acme", "--client", "demo", "--key", "short"), {}, "16"),
        (("show", *WHICH), {"TIDEGATE_STORE_URL": ""}, "go together"),
        (("show", *WHICH), {"TIDEGATE_STORE_URL": "ftp://user:hidden@host"}, "--store-url"),
        (("show", *WHICH), {"TIDEGATE_RESULT_KEY_FILE": "/nowhere/key"}, "/nowhere/key"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_with_the_reason(
    command: Command, arguments: tuple[str, ...], changes: dict[str, str], named: str
) -> None:
    refused = await command(*arguments, **changes)

    assert (refused.exit_code, named in refused.output, "hidden" in refused.output) == (2, True, False), refused.output


async def test_a_result_under_another_key_is_not_taken_for_none(journal: Journal, command: Command, tmp_path: Path) -> None:
    await put(journal, RESULT)
    (tmp_path / "other.key").write_bytes(b"x" * 40)

    strange = await command("show", *WHICH, TIDEGATE_RESULT_KEY_FILE=str(tmp_path / "other.key"))
    both = await command(
        "show",
        *WHICH,
        TIDEGATE_RESULT_KEY_FILE=str(tmp_path / "other.key"),
        TIDEGATE_OTHER_RESULT_KEY_FILE=str(tmp_path / "result.key"),
    )

    assert (strange.exit_code, "does not have" in strange.output) == (1, True)
    assert both.output.startswith("done: status 201")


def test_it_finds_all_in_the_variables_of_a_pod(environment: dict[str, str], valkey: Valkey) -> None:
    done = subprocess.run(
        [str(TIDEGATE), "mutations", "show", *WHICH],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout.split(":")[0]) == (0, "unknown"), done.stderr
