"""The command `tidegate mutations`: what is known of a mutation, and how its unknown outcome is resolved by hand; part of `cli.py`.

In an API pod, which has the settings but not the local run: `python -m tidegate.mutations`.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from tidegate.connections.etcd import StoreUrl
from tidegate.contract.errors import TidegateError
from tidegate.idempotency.errors import KeyInvalidError
from tidegate.idempotency.journal import Found, Journal
from tidegate.idempotency.key import parse_key, storage_name
from tidegate.idempotency.record import NOT_FINAL, Claim, Result, Tombstone
from tidegate.idempotency.sealing import Sealer
from tidegate.identity import rotation
from tidegate.identity.principal import Principal
from tidegate.local.keys import ISSUER
from tidegate.local.layout import Layout, redis_url
from tidegate.settings import SettingsError, read_secret
from tidegate.store.base import Conflict
from tidegate.store.connect import open_store

PATH = click.Path(path_type=Path)
TIMEOUT_SECONDS = 5.0
MAXIMUM_BODY_BYTES = 65_536
KEPT_SECONDS = 30 * 86_400
"""A result that was put in by hand is one that people will ask about again."""


class UnresolvableError(TidegateError):
    """The mutation has no unknown outcome, or it was resolved otherwise meanwhile."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where results are kept, under which names, and how they are sealed."""

    url: StoreUrl
    issuer: str
    idempotency_key_file: Path
    result_key_files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """Which mutation is meant; the fields are the options."""

    tenant: str
    client: str
    subject: str
    key: str
    issuer: str
    store_url: str
    idempotency_key_file: Path | None
    result_key_file: Path | None
    other_result_key_file: Path | None
    state: Path

    def ask(self, deed: Callable[[Journal, str], Awaitable[Found]]) -> Found:
        """Do `deed` with the journal and the name of the mutation.

        Raises:
            UsageError: The place or the mutation is not told whole.
        """
        try:
            place = self._place()
            name = self._name(place)
            sealer = Sealer(*map(read_secret, place.result_key_files))
        except (SettingsError, KeyInvalidError) as ex:
            raise click.UsageError(str(ex)) from ex

        async def run() -> Found:
            store = open_store(place.url, timeout_seconds=TIMEOUT_SECONDS)
            try:
                return await deed(Journal(store, sealer), name)
            finally:
                await store.close()

        return asyncio.run(run())

    def _name(self, place: Place) -> str:
        principal = Principal(place.issuer, self.tenant, self.client, self.subject or self.client, "", frozenset(), 0)
        if not (self.tenant + self.client + self.subject + self.key).isprintable():
            raise click.UsageError("tenant, client, subject and key must be printable text")
        quoted = self.key if self.key.startswith('"') else '"' + self.key.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return storage_name(read_secret(place.idempotency_key_file), principal, parse_key([quoted]))

    def _place(self) -> Place:
        if not (self.store_url or self.idempotency_key_file or self.result_key_file or self.other_result_key_file):
            return self._local_place()
        if not (self.store_url and self.idempotency_key_file and self.result_key_file and self.issuer):
            raise click.UsageError(
                "--store-url, --idempotency-key-file, --result-key-file and --issuer go together: give all (or their variables), or none"
            )
        try:
            url = StoreUrl(self.store_url)
        except ValueError as ex:
            raise click.UsageError(f"--store-url: {ex}") from None  # the cause may quote a password
        result_keys = tuple(filter(None, (self.result_key_file, self.other_result_key_file)))
        return Place(url, self.issuer, self.idempotency_key_file, result_keys)

    def _local_place(self) -> Place:
        layout = Layout.at(self.state, Path(), 0)
        key_file = layout.keys / "idempotency.key"
        if not key_file.exists():
            raise click.UsageError(f"no local run in {layout.state}; for another place give --store-url and the key files")
        result_keys = tuple(path for path in rotation.files(layout.keys, "result") if path.exists())
        return Place(StoreUrl(redis_url(layout.store_socket)), self.issuer or ISSUER, key_file, result_keys)


def _asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which mutation, and where."""
    for option in reversed(
        [
            click.option("--tenant", required=True, help="The customer, as in the claim `tenant`."),
            click.option("--client", required=True, help="The customer's client, as in `client_id`."),
            click.option("--subject", default="", help="As in `sub`; if it is not that of `client_id`."),
            click.option("--key", required=True, help="The Idempotency-Key, with or without its quotes."),
            click.option("--issuer", default="", envvar="TIDEGATE_TOKEN_ISSUER", show_envvar=True, help="`iss` of its tokens."),
            click.option("--store-url", default="", envvar="TIDEGATE_STORE_URL", show_envvar=True, help="The consistent store."),
            click.option(
                "--idempotency-key-file",
                type=PATH,
                envvar="TIDEGATE_IDEMPOTENCY_KEY_FILE",
                show_envvar=True,
                help="Key of the names of mutations.",
            ),
            click.option(
                "--result-key-file",
                type=PATH,
                envvar="TIDEGATE_RESULT_KEY_FILE",
                show_envvar=True,
                help="Key that results are sealed under.",
            ),
            click.option(
                "--other-result-key-file",
                type=PATH,
                envvar="TIDEGATE_OTHER_RESULT_KEY_FILE",
                show_envvar=True,
                help="The other key, while one replaces another.",
            ),
            click.option(
                "--state", type=PATH, default=Path(".tidegate"), show_default=True, help="Directory of the local run, if no store is named."
            ),
        ]
    ):
        command = option(command)
    return command


@click.group()
def mutations() -> None:
    """Look at a mutation by its idempotency key, or resolve its unknown outcome (docs/idempotency.md)."""


@mutations.command()
@_asks
def show(**given: Any) -> None:
    """Say what is known of a mutation."""
    found = Question(**given).ask(lambda journal, name: journal.look_up(name))
    click.echo("\n".join(_lines(found)))


@mutations.command()
@_asks
@click.option("--no-effect", is_flag=True, help="There was no effect, and none is on its way: the next retry has it.")
@click.option("--status", type=click.IntRange(200, 499), help="There was one, or there shall be none: answer retries with this status ...")
@click.option("--body", type=click.File("rb"), help="... and the JSON of this file; - reads it from the input.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def resolve(no_effect: bool, status: int | None, body: BinaryIO | None, yes: bool, **given: Any) -> None:
    """Resolve an unknown outcome: retries run again, or get the given result.

    The writes of the handler do not happen with a given result: put right by hand what they would have changed.
    """
    if no_effect == (status is not None) or (body and no_effect):
        raise click.UsageError("give either --no-effect or --status, the latter with or without --body")
    if status in NOT_FINAL:
        raise click.UsageError(f"--status {status} asks for another attempt: it cannot be the answer to all of them")
    question, content = Question(**given), _content(body, status)
    found = question.ask(lambda journal, name: journal.look_up(name))
    click.echo("\n".join(_lines(found)))
    claim = _unresolved(found)
    if not yes and click.prompt(f"Type {question.tenant} to resolve this", default="", show_default=False) != question.tenant:
        raise click.UsageError("that is another name: nothing was changed")
    headers = {"content-type": "application/json" if (status or 0) < 400 else "application/problem+json"} if content else {}
    result = Result(fingerprint=claim.fingerprint, status=status, headers=headers, body=content) if status else None
    click.echo("\n".join(_lines(question.ask(lambda journal, name: _resolve(journal, name, found, claim, result)))))


def _content(body: BinaryIO | None, status: int | None) -> bytes:
    content = body.read(MAXIMUM_BODY_BYTES + 1) if body else b""
    if len(content) > MAXIMUM_BODY_BYTES:
        raise click.UsageError(f"--body: more than {MAXIMUM_BODY_BYTES} bytes")
    if content and status in (204, 205, 304):
        raise click.UsageError(f"--status {status} has no body")
    try:
        if content:
            msgspec.json.decode(content)
    except msgspec.DecodeError as ex:
        raise click.UsageError(f"--body: not JSON: {ex}") from ex
    return content


async def _resolve(journal: Journal, name: str, found: Found, claim: Claim, result: Result | None) -> Found:
    if result:
        outcome = await journal.resolve(name, result, fencing=claim.fencing, version=found.version, kept_seconds=KEPT_SECONDS)
    else:
        outcome = await journal.mark_absent(name, claim, version=found.version)
    if isinstance(outcome, Conflict):
        raise UnresolvableError("the mutation has changed meanwhile: look at it again")
    return await journal.look_up(name)


def _unresolved(found: Found) -> Claim:
    if not isinstance(found.record, Claim):
        raise UnresolvableError("there is nothing to resolve")
    if found.is_live:
        raise UnresolvableError("a worker is at it: wait until it is done, or until its lease has ended")
    return found.record


def _lines(found: Found) -> Iterator[str]:
    match found.record:
        case None:
            yield "unknown: no such key was used, or all that was kept of it is gone"
        case Result(status=status, headers=headers, body=body):
            yield f"done: status {status}, {len(body)} bytes"
            yield from (f"  {field}: {value}" for field, value in headers.items())
        case Tombstone():
            yield "done: its result is kept no longer, and the key cannot be used again"
        case Claim() as claim:
            state = "in progress" if found.is_live else "resolved by hand: without effect" if claim.is_absent else "outcome unknown"
            yield f"{state}: claimed {max(0, time.time() - claim.started_at):.0f} s ago by the clock of its worker"
            yield f"  effect id {claim.effect_id}, fencing number {claim.fencing}"


if __name__ == "__main__":
    try:
        mutations(prog_name="python -m tidegate.mutations")
    except TidegateError as error:
        click.echo(f"tidegate: {error}", err=True)
        sys.exit(1)
