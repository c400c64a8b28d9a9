"""Options that several commands have, and what they lead to; called by the other modules of this room."""

from pathlib import Path

import click

from tidegate.local.layout import Layout, Region
from tidegate.settings import SettingsError, read_secret

PATH = click.Path(path_type=Path)
TIMEOUT_SECONDS = 5.0

ISSUER, REGION, REDIS_URL, STORE_URL = "--issuer", "--region", "--redis-url", "--store-url"
IDEMPOTENCY_KEY_FILE, STATE = "--idempotency-key-file", "--state"

issuer = click.option(ISSUER, default="", envvar="TIDEGATE_TOKEN_ISSUER", show_envvar=True, help="`iss` of the customer's tokens.")
region = click.option(
    REGION, default="", envvar="TIDEGATE_REGION", show_envvar=True, help="Name of the region; of a local run, that one alone."
)
redis_url = click.option(REDIS_URL, default="", envvar="TIDEGATE_REDIS_URL", show_envvar=True, help="Redis of the region.")
store_url = click.option(STORE_URL, default="", envvar="TIDEGATE_STORE_URL", show_envvar=True, help="The consistent store.")
idempotency_key_file = click.option(
    IDEMPOTENCY_KEY_FILE,
    type=PATH,
    envvar="TIDEGATE_IDEMPOTENCY_KEY_FILE",
    show_envvar=True,
    help="Key of the names of mutations and of what lanes keep, and that which chooses a customer's shard.",
)
state = click.option(STATE, type=PATH, default=Path(".tidegate"), show_default=True, help="Directory of the local run.")


def local_run(directory: Path, elsewhere: str) -> Layout:
    """The layout of the local run in `directory`; `elsewhere` names the options that lead to another place.

    Raises:
        UsageError: There is none.
    """
    layout = Layout.at(directory, Path(), 0)
    if not layout.keys.is_dir():
        raise click.UsageError(f"no local run in {layout.state}; for another place give {elsewhere}")
    return layout


def local_regions(layout: Layout, name: str) -> tuple[Region, ...]:
    """The region of that name, or all of them if it is empty.

    Raises:
        UsageError: The local run has none of that name.
    """
    regions = tuple(region for region in layout.regions if name in ("", region.name))
    if not regions:
        raise click.UsageError(f"the local run has no region {name!r}, but: {', '.join(region.name for region in layout.regions)}")
    return regions


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        UsageError: It cannot be read, or is too short.
    """
    try:
        return read_secret(path)
    except SettingsError as ex:
        raise click.UsageError(str(ex)) from ex
