"""The command `tidegate`: usage, mutations, cache lanes, keys and store of an installation, and two regions on one machine."""

import signal

# Until a command takes signals into its own hands, Ctrl-C simply ends it: also in the middle of the imports below.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from importlib.util import find_spec

import click

from tidegate.commands.adopt_store import adopt_store
from tidegate.commands.cache import cache
from tidegate.commands.keys import keys
from tidegate.commands.mutations import mutations
from tidegate.commands.smoke import smoke
from tidegate.commands.usage import usage
from tidegate.contract.errors import TidegateError


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
    """Tidegate: look after an installation, in one of its API pods or beside the two regions that `tidegate up` runs on this machine."""


for command in (usage, mutations, cache, adopt_store, keys, smoke):
    main.add_command(command)

if find_spec("supervisor"):  # of the extra `local`, which no API pod has
    from tidegate.commands.local import demo, region, token, up_command

    for command in (up_command, token, region, demo):
        main.add_command(command)
