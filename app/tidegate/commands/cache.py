"""`tidegate cache`: removes what the lanes keep for a customer, region by region."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tidegate.cache.errors import LaneUnavailableError
from tidegate.cache.lane import Lane
from tidegate.cache.lanes import Lanes, LaneSecrets
from tidegate.cache.target import path_of
from tidegate.commands import options
from tidegate.commands.options import IDEMPOTENCY_KEY_FILE, ISSUER, REDIS_URL
from tidegate.connections.connect import connect, connect_region
from tidegate.connections.url import OptionalUrl, RedisUrl, RegionUrl
from tidegate.contract.errors import TidegateError
from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal
from tidegate.local.keys import ISSUER as LOCAL_ISSUER
from tidegate.local.layout import redis_url
from tidegate.tiers.regional import RegionalTiers, RegionUnreachableError
from tidegate.tiers.snapshot import Documents

CACHE_URL = "--cache-url"


class PurgeError(TidegateError):
    """Something that may be kept was not removed."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region: its name, the URL of its Redis, and that of its shared lane."""

    name: str
    redis: RegionUrl
    shared: OptionalUrl


@dataclass(frozen=True, slots=True)
class Place:
    """Where lanes are, what names and passwords of theirs follow from, and whose tokens name the customer."""

    regions: tuple[Region, ...]
    secrets: LaneSecrets
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
            raise click.UsageError(f"{REDIS_URL}, {IDEMPOTENCY_KEY_FILE} and {ISSUER} go together: give all (or their variables), or none")
        try:
            region = Region(self.region or "this region", RegionUrl(self.redis_url), OptionalUrl(self.cache_url))
        except ValueError as ex:
            raise click.UsageError(f"{REDIS_URL} or {CACHE_URL}: {ex}") from None  # the cause may quote a password
        return Place((region,), _secrets(self.idempotency_key_file, self.lane_key_file), self.issuer)

    def _local_place(self) -> Place:
        layout = options.local_run(self.state, f"{REDIS_URL}, {IDEMPOTENCY_KEY_FILE} and {ISSUER}")
        regions = tuple(
            Region(region.name, RegionUrl(redis_url(region.redis_socket)), OptionalUrl(redis_url(region.cache_socket)))
            for region in options.local_regions(layout, self.region)
        )
        return Place(regions, _secrets(layout.keys / "idempotency.key", None), self.issuer or LOCAL_ISSUER)

    def path(self) -> str:
        """The path that was asked for; empty: all of them.

        Raises:
            UsageError: It is none.
        """
        path = path_of(self.uri) if self.uri else ""
        if self.uri and not path:
            raise click.UsageError("--uri names no path: give one as in /v1/reports/7, or a URL that has one")
        return path or ""

    async def carry_out(self, region: Region, place: Place, path: str) -> bool:
        """Remove, lane by lane, and say what was done; False if not all of the region could be reached."""
        documents, is_whole = Documents(), True
        try:
            documents = await _documents(region)
        except RegionUnreachableError:
            click.echo(f"{region.name}: Dedicated lanes: not removed, the Redis that names them does not answer as it must", err=True)
            is_whole = False
        lanes = Lanes(region.name, region.shared, _connect, place.secrets, documents.by_name.get, timeout_seconds=options.TIMEOUT_SECONDS)
        tenant = Principal(place.issuer, self.tenant, "", "", "", frozenset(), 0).partition(PartitionBy.TENANT)
        try:
            found = [lanes.shared, *(lanes.of(document.tier) for document in documents.by_name.values())]
            return all([await _purge(region, lane, tenant, path) for lane in dict.fromkeys(found) if lane]) and is_whole
        finally:
            await lanes.aclose()


@click.group()
def cache() -> None:
    """Look after the cache lanes (docs/cache.md)."""


@cache.command()
@click.option("--tenant", required=True, help="The customer, as in the claim `tenant`.")
@click.option("--uri", default="", help="Path or URL of a resource, in every variant and query; without it everything of the customer.")
@options.issuer
@options.region
@options.redis_url
@click.option(CACHE_URL, default="", envvar="TIDEGATE_CACHE_URL", show_envvar=True, help="Redis of the shared lane.")
@options.idempotency_key_file
@click.option(
    "--lane-key-file", type=options.PATH, envvar="TIDEGATE_LANE_KEY_FILE", show_envvar=True, help="Key of the passwords of dedicated lanes."
)
@options.state
def purge(**given: Any) -> None:
    """Remove what is kept for a customer; what is being made meanwhile from older data is not kept either."""
    asked = Purge(**given)
    place, path = asked.place(), asked.path()
    # One that cannot be reached keeps nothing from being removed in the others.
    outcomes = [asyncio.run(asked.carry_out(region, place, path)) for region in place.regions]
    if not all(outcomes):
        raise PurgeError("what could not be reached keeps what it has until that is too old: run this again when it answers")


def _secrets(name_key_file: Path, lane_key_file: Path | None) -> LaneSecrets:
    return LaneSecrets(options.read_key(name_key_file), (), options.read_key(lane_key_file) if lane_key_file else b"")


async def _purge(region: Region, lane: Lane, tenant: str, path: str) -> bool:
    label = f"{region.name}: {lane.kind} lane{f' of {lane.tier}' if lane.tier else ''}"
    try:
        removed = await lane.forget(lane.key(tenant, path)) if path else await lane.forget_tenant(tenant)
    except LaneUnavailableError as ex:
        click.echo(f"{label}: not removed, {ex}", err=True)
        return False
    click.echo(f"{label}: {removed} path{'' if removed == 1 else 's'} removed")
    return True


async def _documents(region: Region) -> Documents:
    redis = connect_region(region.redis, timeout_seconds=options.TIMEOUT_SECONDS)
    try:
        published = await RegionalTiers(redis, worker_id="").read()
    finally:
        await redis.aclose()
    return Documents().follow(published.revision, published.texts) if published else Documents()


def _connect(url: str) -> Any:
    return connect(RedisUrl(url), timeout_seconds=options.TIMEOUT_SECONDS)
