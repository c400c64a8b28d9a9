"""The command `tidegate adopt-store`: accepts that the consistent store is not the one that it was; part of `cli.py`.

In an API pod, which has the settings but not the local run: `python -m tidegate.adopt_store`.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click

from tidegate.connections.connect import connect_region
from tidegate.connections.etcd import StoreUrl
from tidegate.connections.url import RegionUrl
from tidegate.contract.errors import TidegateError
from tidegate.local.layout import Layout, redis_url
from tidegate.store.connect import open_store
from tidegate.store.incarnation import Incarnation
from tidegate.store.regional import RegionalMemory
from tidegate.store.trust import adopt

TIMEOUT_SECONDS = 5.0
STORE, REDIS = "--store-url", "--redis-url"
WORD = "adopt"


@click.command(name="adopt-store")
@click.option(STORE, default="", envvar="TIDEGATE_STORE_URL", show_envvar=True, help="The consistent store.")
@click.option(REDIS, default="", envvar="TIDEGATE_REDIS_URL", show_envvar=True, help="Redis of a region that refuses it.")
@click.option("--yes", is_flag=True, help="Do not ask before.")
@click.option(
    "--state", type=click.Path(path_type=Path), default=Path(".tidegate"), show_default=True, help="Directory of the local run, if no URLs."
)
def adopt_store(store_url: str, redis_url: str, yes: bool, state: Path) -> None:
    """Accept an empty or another store in all regions: what the old one knew to be done may then be done again."""
    url, regions = _place(store_url, redis_url, state)
    if (
        not yes
        and click.prompt(f"Retries of what only the old store knew will run again. Type {WORD}", default="", show_default=False) != WORD
    ):
        raise click.UsageError("nothing was changed")
    adopted = asyncio.run(_adopt(url, regions))
    click.echo(f"Adopted for the {adopted.adoptions}. time. Workers follow within seconds, in every region.")


def _place(store_url: str, redis_url_: str, state: Path) -> tuple[StoreUrl, Sequence[RegionUrl]]:
    if not store_url and not redis_url_:
        layout = Layout.at(state, Path(), 0)
        return StoreUrl(redis_url(layout.store_socket)), [RegionUrl(redis_url(region.redis_socket)) for region in layout.regions]
    for option, given in ((STORE, store_url), (REDIS, redis_url_)):
        if not given:
            raise click.UsageError(f"{option} (or TIDEGATE_{option[2:].replace('-', '_').upper()}) is missing")
    try:
        return StoreUrl(store_url), [RegionUrl(redis_url_)]
    except ValueError as ex:
        raise click.UsageError(f"a URL cannot be used: {ex}") from None  # the cause may quote a password


async def _adopt(url: StoreUrl, regions: Sequence[RegionUrl]) -> Incarnation:
    async with AsyncExitStack() as stack:
        store = open_store(url, timeout_seconds=TIMEOUT_SECONDS)
        stack.push_async_callback(store.close)
        memories = []
        for region in regions:
            redis = connect_region(region, timeout_seconds=TIMEOUT_SECONDS)
            stack.push_async_callback(redis.aclose)
            memories.append(RegionalMemory(redis))
        return await adopt(store, memories)


if __name__ == "__main__":
    try:
        adopt_store(prog_name="python -m tidegate.adopt_store")
    except TidegateError as error:
        click.echo(f"tidegate: {error}", err=True)
        sys.exit(1)
