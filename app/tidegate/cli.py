"""The command `tidegate`: two regions on one machine, tokens for them, usage of limits, and a tour; for people at a terminal."""

import signal

# Until a command takes signals into its own hands, Ctrl-C simply ends it: also in the middle of the imports below.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
import tempfile
from pathlib import Path

import click

from tidegate.adopt_store import adopt_store
from tidegate.contract.errors import TidegateError
from tidegate.identity import rotation
from tidegate.local.keys import Grant, Keys
from tidegate.local.layout import REGION_NAMES, Layout
from tidegate.local.run import kill_region, start_region
from tidegate.local.supervision import Supervision
from tidegate.local.tour import tour
from tidegate.local.up import stop_on_signals, up
from tidegate.mutations import mutations
from tidegate.purge import cache
from tidegate.usage import usage

PATH = click.Path(path_type=Path)

state_option = click.option("--state", type=PATH, default=Path(".tidegate"), show_default=True, help="Directory that holds the run.")
tiers_option = click.option("--tiers", type=PATH, default=Path("k8s/tiers"), show_default=True, help="Directory of tier manifests.")


def _not_empty(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value:
        raise click.BadParameter("must not be empty")
    return value


class Commands(click.Group):
    """Commands whose refusals are sentences on standard error and exit status 1."""

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except TidegateError as ex:
            click.echo(f"tidegate: {ex}", err=True)
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Tidegate on this machine: two regions, each with Redis, API workers and an edge, and one operator."""


main.add_command(usage)
main.add_command(mutations)
main.add_command(cache)
main.add_command(adopt_store)


@main.command(name="up")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="First port; 0 takes any free ones.")
@tiers_option
@state_option
def up_command(port: int, tiers: Path, state: Path) -> None:
    """Run two regions in the foreground until Ctrl-C."""
    up(Layout.at(state, tiers, port))


@main.command()
@click.option("--tier", required=True, callback=_not_empty, help="The tier that the token names.")
@click.option("--tenant", default="acme", show_default=True, help="The customer.")
@click.option("--client", default="demo", show_default=True, help="The customer's client; limits count for it alone.")
@state_option
def token(tier: str, tenant: str, client: str, state: Path) -> None:
    """Print an access token for the local run, valid for 15 minutes."""
    layout = Layout.at(state, Path(), 0)
    layout.claim()
    click.echo(Keys(layout.keys).mint(Grant(tier, tenant, client)))


@main.group()
def region() -> None:
    """Kill a region or bring it back."""


@region.command()
@click.argument("name", type=click.Choice(REGION_NAMES))
@state_option
def kill(name: str, state: Path) -> None:
    """SIGKILL the API and the Redis of region NAME."""
    kill_region(_supervision(state), name)
    click.echo(f"{name} is dead: its API and its Redis were killed. Bring it back with: region start {name}")


@region.command()
@click.argument("name", type=click.Choice(REGION_NAMES))
@state_option
def start(name: str, state: Path) -> None:
    """Start the API and the Redis of region NAME again."""
    start_region(_supervision(state), name)
    click.echo(f"{name} is starting; its edge sends traffic to it once it is ready.")


@main.group(name="keys")
def keys_group() -> None:
    """Replace a key in a directory of key files, step by step (docs/rotation.md)."""


key_option = click.option("--key", "name", type=click.Choice(rotation.REPLACEABLE), required=True, help="Which key.")


@keys_group.command()
@click.argument("directory", type=PATH)
@key_option
def begin(directory: Path, name: str) -> None:
    """Lay a new key beside the one in use."""
    rotation.begin(directory, name)
    _, other = rotation.files(directory, name)
    click.echo(f"Wrote {other}. Restart every worker with TIDEGATE_OTHER_{name.upper()}_KEY_FILE naming it, then: keys switch")


@keys_group.command()
@click.argument("directory", type=PATH)
@key_option
def switch(directory: Path, name: str) -> None:
    """Exchange both keys, so that the new one is preferred."""
    rotation.switch(directory, name)
    click.echo("Exchanged. Restart every worker; when nothing is kept under the old one any more: keys finish")


@keys_group.command()
@click.argument("directory", type=PATH)
@key_option
def finish(directory: Path, name: str) -> None:
    """Remove the old key."""
    rotation.finish(directory, name)
    click.echo(f"Removed. Restart every worker without TIDEGATE_OTHER_{name.upper()}_KEY_FILE.")


@main.command()
@tiers_option
def demo(tiers: Path) -> None:
    """Tour a run of its own: limits, a dead region, a retried purchase, overload, cache lanes; exit status 1 at the first surprise."""
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as directory:
        tour(Path(directory), tiers, stop_on_signals())


def _supervision(state: Path) -> Supervision:
    return Supervision(Layout.at(state, Path(), 0).supervisor_socket)
