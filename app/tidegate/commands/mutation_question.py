"""Which mutation is meant, and where it is kept: what the options of `tidegate mutations` mean; called by `mutations.py`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click

from tidegate.commands import options
from tidegate.commands.options import IDEMPOTENCY_KEY_FILE, ISSUER, STORE_URL
from tidegate.connections.etcd import StoreUrl
from tidegate.idempotency.errors import KeyInvalidError
from tidegate.idempotency.journal import Found, Journal
from tidegate.idempotency.key import parse_key, storage_name
from tidegate.idempotency.sealing import Sealer
from tidegate.identity import rotation
from tidegate.identity.principal import Principal
from tidegate.local.keys import ISSUER as LOCAL_ISSUER
from tidegate.local.layout import redis_url
from tidegate.store.connect import open_store

RESULT_KEY_FILE = "--result-key-file"
TOGETHER = (STORE_URL, IDEMPOTENCY_KEY_FILE, RESULT_KEY_FILE)
OPTIONS = (
    click.option("--tenant", required=True, help="The customer, as in the claim `tenant`."),
    click.option("--client", required=True, help="The customer's client, as in `client_id`."),
    click.option("--subject", default="", help="As in `sub`; if it is not that of `client_id`."),
    click.option("--key", required=True, help="The Idempotency-Key, with or without its quotes."),
    options.issuer,
    options.store_url,
    options.idempotency_key_file,
    click.option(
        RESULT_KEY_FILE, type=options.PATH, envvar="TIDEGATE_RESULT_KEY_FILE", show_envvar=True, help="Key that results are sealed under."
    ),
    click.option(
        "--other-result-key-file",
        type=options.PATH,
        envvar="TIDEGATE_OTHER_RESULT_KEY_FILE",
        show_envvar=True,
        help="The other key, while one replaces another.",
    ),
    options.state,
)


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
        place = self._place()
        name, sealer = self._name(place), Sealer(*map(options.read_key, place.result_key_files))

        async def run() -> Found:
            store = open_store(place.url, timeout_seconds=options.TIMEOUT_SECONDS)
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
        try:
            return storage_name(options.read_key(place.idempotency_key_file), principal, parse_key([quoted]))
        except KeyInvalidError as ex:
            raise click.UsageError(str(ex)) from ex

    def _place(self) -> Place:
        if not (self.store_url or self.idempotency_key_file or self.result_key_file or self.other_result_key_file):
            return self._local_place()
        if not (self.store_url and self.idempotency_key_file and self.result_key_file and self.issuer):
            raise click.UsageError(f"{', '.join(TOGETHER)} and {ISSUER} go together: give all (or their variables), or none")
        try:
            url = StoreUrl(self.store_url)
        except ValueError as ex:
            raise click.UsageError(f"{STORE_URL}: {ex}") from None  # the cause may quote a password
        result_keys = tuple(filter(None, (self.result_key_file, self.other_result_key_file)))
        return Place(url, self.issuer, self.idempotency_key_file, result_keys)

    def _local_place(self) -> Place:
        layout = options.local_run(self.state, f"{STORE_URL} and the key files")
        result_keys = tuple(path for path in rotation.files(layout.keys, "result") if path.exists())
        return Place(StoreUrl(redis_url(layout.store_socket)), self.issuer or LOCAL_ISSUER, layout.keys / "idempotency.key", result_keys)


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which mutation, and where."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command
