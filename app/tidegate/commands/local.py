"""`tidegate up`, `token`, `region` and `demo`: two regions on one machine, where the extra `local` is installed."""

import tempfile
from pathlib import Path

import click

from tidegate.commands import options
from tidegate.local.keys import Grant, Keys
from tidegate.local.layout import REGION_NAMES, Layout
from tidegate.local.run import kill_region, start_region
from tidegate.local.supervision import Supervision
from tidegate.local.tour import tour
from tidegate.local.up import stop_on_signals, up

tiers_option = click.option("--tiers", type=options.PATH, default=Path("k8s/tiers"), show_default=True, help="Directory of tier manifests.")


def _not_empty(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value:
        raise click.BadParameter("must not be empty")
    return value


@click.command(name="up")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="First port; 0 takes any free ones.")
@tiers_option
@options.state
def up_command(port: int, tiers: Path, state: Path) -> None:
    """Run two regions in the foreground until Ctrl-C."""
    up(Layout.at(state, tiers, port))


@click.command()
@click.option("--tier", required=True, callback=_not_empty, help="The tier that the token names.")
@click.option("--tenant", default="acme", show_default=True, help="The customer.")
@click.option("--client", default="demo", show_default=True, help="The customer's client; limits count for it alone.")
@options.state
def token(tier: str, tenant: str, client: str, state: Path) -> None:
    """Print an access token for the local run, valid for 15 minutes."""
    layout = Layout.at(state, Path(), 0)
    layout.claim()
    click.echo(Keys(layout.keys).mint(Grant(tier, tenant, client)))


@click.group()
def region() -> None:
    """Kill a region or bring it back."""


@region.command()
@click.argument("name", type=click.Choice(REGION_NAMES))
@options.state
def kill(name: str, state: Path) -> None:
    """SIGKILL the API and the Redis of region NAME."""
    kill_region(_supervision(state), name)
    click.echo(f"{name} is dead: its API and its Redis were killed. Bring it back with: region start {name}")


@region.command()
@click.argument("name", type=click.Choice(REGION_NAMES))
@options.state
def start(name: str, state: Path) -> None:
    """Start the API and the Redis of region NAME again."""
    start_region(_supervision(state), name)
    click.echo(f"{name} is starting; its edge sends traffic to it once it is ready.")


@click.command()
@tiers_option
def demo(tiers: Path) -> None:
    """Tour a run of its own: limits, a dead region, a retried purchase, overload, cache lanes; exit status 1 at the first surprise."""
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as directory:
        tour(Path(directory), tiers, stop_on_signals())


def _supervision(state: Path) -> Supervision:
    return Supervision(Layout.at(state, Path(), 0).supervisor_socket)
