"""The command `tidegate cache`: removes what the lanes of a region keep for a customer; part of `cli.py`.

In an API pod, which has the settings but not the local run: `python -m tidegate.purge`.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click

from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import Lane
from tidegate.cache.lanes import Lanes, LaneSecrets
from tidegate.connections.connect import connect, connect_region
from tidegate.connections.url import OptionalUrl, RedisUrl, RegionUrl
from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal
from tidegate.local.keys import ISSUER
from tidegate.local.layout import Layout, redis_url
from tidegate.settings import SettingsError, read_secret
from tidegate.tiers.regional import RegionalTiers, RegionUnreachableError
from tidegate.tiers.snapshot import Documents

PATH = click.Path(path_type=Path)
TIMEOUT_SECONDS = 5.0


class PurgeError(TidegateError):
    """Something that may be kept was not removed; the text says where."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region: its name, the URL of its Redis, and that of its shared lane."""

    name: str
    redis: RegionUrl
    shared: OptionalUrl


@dataclass(frozen=True, slots=True)
class Place:
    """Where lanes are and the names under which they keep: regions, key files, issuer."""

    regions: tuple[Region, ...]
    name_key_file: Path
    lane_key_file: Path | None
    issuer: str


@dataclass(frozen=True, slots=True)
class Purge:
    """What was asked; the fields are the options."""

    tenant: str
    uri: str
    issuer: str
    region: str
    redis_url: str
    cache_url: str
    idempotency_key_file: Path | None
    lane_key_file: Path | None
    state: Path

    def place(self) -> Place:
        """By the options and variables, or else that of the local run.

        Raises:
            UsageError: It is not told whole.
        """
        if not self.redis_url and not self.idempotency_key_file:
            return self._local_place()
        if not (self.redis_url and self.idempotency_key_file and self.issuer):
            raise click.UsageError("--redis-url, --idempotency-key-file and --issuer go together: give all (or their variables), or none")
        try:
            region = Region(self.region or "this region", RegionUrl(self.redis_url), OptionalUrl(self.cache_url))
        except ValueError as ex:
            raise click.UsageError(f"--redis-url or --cache-url: {ex}") from None  # the cause may quote a password
        return Place((region,), self.idempotency_key_file, self.lane_key_file, self.issuer)

    def _local_place(self) -> Place:
        layout = Layout.at(self.state, Path(), 0)
        key_file = layout.keys / "idempotency.key"
        if not key_file.exists():
            raise click.UsageError(
                f"no local run in {layout.state}; for another place give --redis-url, --idempotency-key-file and --issuer"
            )
        regions = tuple(
            Region(region.name, RegionUrl(redis_url(region.redis_socket)), OptionalUrl(redis_url(region.cache_socket)))
            for region in layout.regions
            if self.region in ("", region.name)
        )
        if not regions:
            raise click.UsageError(f"the local run has no region {self.region!r}")
        return Place(regions, key_file, None, self.issuer or ISSUER)

    def secrets(self, place: Place) -> LaneSecrets:
        """What names and passwords follow from.

        Raises:
            UsageError: A key cannot be read.
        """
        try:
            passwords = read_secret(place.lane_key_file) if place.lane_key_file else b""
            return LaneSecrets(read_secret(place.name_key_file), (), passwords)
        except SettingsError as ex:
            raise click.UsageError(str(ex)) from ex

    async def carry_out(self, region: Region, place: Place, secrets: LaneSecrets) -> bool:
        """Remove, lane by lane, and say what was done; False if a lane did not answer.

        Raises:
            PurgeError: The region does not say which lanes there are.
        """
        documents = await _documents(region)
        lanes = Lanes(region.name, region.shared, _connect, secrets, documents.by_name.get, timeout_seconds=TIMEOUT_SECONDS)
        try:
            found = [lanes.shared, *(lanes.of(document.tier) for document in documents.by_name.values())]
            return all([await self._purge(region, lane, place.issuer) for lane in dict.fromkeys(found) if lane])
        finally:
            await lanes.aclose()

    async def _purge(self, region: Region, lane: Lane, issuer: str) -> bool:
        tenant = Principal(issuer, self.tenant, "", "", "", frozenset(), 0).partition(PartitionBy.TENANT)
        label = f"{region.name}: {lane.kind} lane{f' of {lane.tier}' if lane.tier else ''}"
        try:
            path = unquote(urlsplit(self.uri).path)
            removed = await lane.forget(lane.key(tenant, path)) if self.uri else await lane.forget_tenant(tenant)
        except LaneUnavailableError as ex:
            click.echo(f"{label}: not removed, {ex}", err=True)
            return False
        click.echo(f"{label}: {removed} path{'' if removed == 1 else 's'} removed")
        return True


@click.group()
def cache() -> None:
    """Look after the cache lanes (docs/cache.md)."""


@cache.command()
@click.option("--tenant", required=True, help="The customer, as in the claim `tenant`.")
@click.option("--uri", default="", help="Path or URL of a resource, in every variant and query; without it everything of the customer.")
@click.option("--issuer", default="", envvar="TIDEGATE_TOKEN_ISSUER", show_envvar=True, help="`iss` of its tokens.")
@click.option(
    "--region", default="", envvar="TIDEGATE_REGION", show_envvar=True, help="Name of the region; of a local run, that one alone."
)
@click.option(
    "--redis-url", default="", envvar="TIDEGATE_REDIS_URL", show_envvar=True, help="Redis of the region, which knows the dedicated lanes."
)
@click.option("--cache-url", default="", envvar="TIDEGATE_CACHE_URL", show_envvar=True, help="Redis of the shared lane.")
@click.option(
    "--idempotency-key-file",
    type=PATH,
    envvar="TIDEGATE_IDEMPOTENCY_KEY_FILE",
    show_envvar=True,
    help="Key of the names that entries are kept under.",
)
@click.option(
    "--lane-key-file", type=PATH, envvar="TIDEGATE_LANE_KEY_FILE", show_envvar=True, help="Key of the passwords of dedicated lanes."
)
@click.option(
    "--state", type=PATH, default=Path(".tidegate"), show_default=True, help="Directory of the local run, asked if no Redis is named."
)
def purge(**given: Any) -> None:
    """Remove what is kept for a customer; what is being made meanwhile from older data is not kept either."""
    asked = Purge(**given)
    place = asked.place()
    secrets = asked.secrets(place)
    outcomes = [asyncio.run(asked.carry_out(region, place, secrets)) for region in place.regions]
    if not all(outcomes):
        raise PurgeError("a lane does not answer: what it keeps stays until its time is over")


async def _documents(region: Region) -> Documents:
    redis = connect_region(region.redis, timeout_seconds=TIMEOUT_SECONDS)
    try:
        published = await RegionalTiers(redis, worker_id="").read()
    except RegionUnreachableError as ex:
        raise PurgeError(f"the Redis of {region.name} does not answer as it must: nothing was removed there") from ex
    finally:
        await redis.aclose()
    return Documents().follow(published.revision, published.texts) if published else Documents()


def _connect(url: str) -> Any:
    return connect(RedisUrl(url), timeout_seconds=TIMEOUT_SECONDS)


if __name__ == "__main__":
    try:
        cache(prog_name="python -m tidegate.purge")
    except TidegateError as error:
        click.echo(f"tidegate: {error}", err=True)
        sys.exit(1)
