"""`tidegate adopt-store`: accepts that the consistent store is not the one that it was."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click

from tidegate.commands import options
from tidegate.commands.options import REDIS_URL, STORE_URL
from tidegate.connections.connect import connect_region
from tidegate.connections.etcd import StoreUrl
from tidegate.connections.url import RegionUrl
from tidegate.local.layout import redis_url
from tidegate.store.connect import open_store
from tidegate.store.incarnation import Incarnation
from tidegate.store.regional import RegionalMemory
from tidegate.store.trust import adopt

WORD = "adopt"


@click.command(name="adopt-store")
@options.store_url
@options.redis_url
@click.option("--yes", is_flag=True, help="Do not ask before.")
@options.state
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
        layout = options.local_run(state, f"{STORE_URL} and {REDIS_URL}")
        return StoreUrl(redis_url(layout.store_socket)), [RegionUrl(redis_url(region.redis_socket)) for region in layout.regions]
    for option, given in ((STORE_URL, store_url), (REDIS_URL, redis_url_)):
        if not given:
            raise click.UsageError(f"{option} (or TIDEGATE_{option[2:].replace('-', '_').upper()}) is missing")
    try:
        return StoreUrl(store_url), [RegionUrl(redis_url_)]
    except ValueError as ex:
        raise click.UsageError(f"a URL cannot be used: {ex}") from None  # the cause may quote a password


async def _adopt(url: StoreUrl, regions: Sequence[RegionUrl]) -> Incarnation:
    async with AsyncExitStack() as stack:
        store = open_store(url, timeout_seconds=options.TIMEOUT_SECONDS)
        stack.push_async_callback(store.close)
        memories = []
        for region in regions:
            redis = connect_region(region, timeout_seconds=options.TIMEOUT_SECONDS)
            stack.push_async_callback(redis.aclose)
            memories.append(RegionalMemory(redis))
        return await adopt(store, memories)
