"""`tidegate keys`: one key replaces another in a directory of key files, step by step (docs/rotation.md)."""

from pathlib import Path

import click

from tidegate.commands import options
from tidegate.identity import rotation


@click.group()
def keys() -> None:
    """Replace a key in a directory of key files, step by step (docs/rotation.md)."""


key_option = click.option("--key", "name", type=click.Choice(rotation.REPLACEABLE), required=True, help="Which key.")


@keys.command()
@click.argument("directory", type=options.PATH)
@key_option
def begin(directory: Path, name: str) -> None:
    """Lay a new key beside the one in use."""
    rotation.begin(directory, name)
    _, other = rotation.files(directory, name)
    click.echo(f"Wrote {other}. Restart every worker with TIDEGATE_OTHER_{name.upper()}_KEY_FILE naming it, then: keys switch")


@keys.command()
@click.argument("directory", type=options.PATH)
@key_option
def switch(directory: Path, name: str) -> None:
    """Exchange both keys, so that the new one is preferred."""
    rotation.switch(directory, name)
    click.echo("Exchanged. Restart every worker; when nothing is kept under the old one any more: keys finish")


@keys.command()
@click.argument("directory", type=options.PATH)
@key_option
def finish(directory: Path, name: str) -> None:
    """Remove the old key."""
    rotation.finish(directory, name)
    click.echo(f"Removed. Restart every worker without TIDEGATE_OTHER_{name.upper()}_KEY_FILE.")
