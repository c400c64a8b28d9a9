"""Whose usage is asked for, where, and under which tier: what the options of `tidegate usage` mean; called by `usage.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import click

from tidegate.commands import options
from tidegate.commands.options import IDEMPOTENCY_KEY_FILE, ISSUER, REDIS_URL
from tidegate.connections.url import RegionUrl
from tidegate.contract.tier import PartitionBy, Tier
from tidegate.identity.principal import Principal
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.limits.inspection import RegionUsage
from tidegate.local.keys import ISSUER as LOCAL_ISSUER
from tidegate.local.layout import redis_url

KEY_FILE = "--identity-key-file"


@dataclass(frozen=True, slots=True)
class Place:
    """Where usage is kept, and the names under which: regions with the URLs of their Redis; keys of pseudonyms, issuer and shards."""

    regions: dict[str, RegionUrl]
    key_files: tuple[Path, ...]
    issuer: str
    shards: int = 1
    shard_key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked; the fields are the options."""

    tenant: str
    client: str
    tier: str
    simulate: TextIO | None
    everyone: bool
    reset: bool
    yes: bool
    issuer: str
    region: str
    redis_url: str
    identity_key_file: Path | None
    other_identity_key_file: Path | None
    limits_shards: int
    idempotency_key_file: Path | None
    state: Path

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: It does not.
        """
        if self.everyone and (self.simulate is None or self.tenant or self.client or self.reset):
            raise click.UsageError("--all goes with --simulate, and with no identity or --reset")
        if self.reset and self.simulate:
            raise click.UsageError("--reset forgets what was used, whatever the tier: not together with --simulate")
        if not self.everyone and not self.tenant:
            raise click.UsageError("name a customer with --tenant, or count all with --simulate FILE --all")
        if not self.simulate and not self.tier:
            raise click.UsageError("name the tier with --tier, or give one with --simulate")

    def place(self) -> Place:
        """By the options and variables, or else that of the local run.

        Raises:
            UsageError: It is not told whole.
        """
        key_files = tuple(filter(None, (self.identity_key_file, self.other_identity_key_file)))
        if not self.redis_url and not key_files:
            return self._local_place()
        if not self.redis_url:
            raise click.UsageError(f"{REDIS_URL} (or TIDEGATE_REDIS_URL) is missing: the Redis of the region")
        if not self.everyone and not self.identity_key_file:
            raise click.UsageError(f"{KEY_FILE} (or TIDEGATE_IDENTITY_KEY_FILE) is missing: usage is kept under names made with that key")
        if not self.everyone and not self.issuer:
            raise click.UsageError(f"{ISSUER} (or TIDEGATE_TOKEN_ISSUER) is missing: the `iss` of the customer's tokens")
        if not self.everyone and self.limits_shards > 1 and not self.idempotency_key_file:
            raise click.UsageError(
                f"{IDEMPOTENCY_KEY_FILE} (or TIDEGATE_IDEMPOTENCY_KEY_FILE) is missing: it chooses the shard of a customer"
            )
        try:
            url = RegionUrl(self.redis_url)
            return Place({self.region or "this region": url}, key_files, self.issuer, self.limits_shards, self.idempotency_key_file)
        except ValueError as ex:
            raise click.UsageError(f"{REDIS_URL}: {ex}") from None  # the cause may quote a password

    def _local_place(self) -> Place:
        layout = options.local_run(self.state, f"{REDIS_URL}, {KEY_FILE} and {ISSUER}")
        regions = {region.name: RegionUrl(redis_url(region.redis_socket)) for region in options.local_regions(layout, self.region)}
        return Place(regions, (layout.keys / "identity.key",), self.issuer or LOCAL_ISSUER)

    def tier_in(self, usage: RegionUsage) -> Tier:
        """The tier that was asked about.

        Raises:
            UsageError: The region has none of that name.
        """
        tier = usage.tier(self.tier)
        if tier is None:
            raise click.UsageError(f"{usage.region} has no tier {self.tier!r}, but: {', '.join(usage.tier_names()) or 'none'}")
        return tier

    def tids(self, tier: Tier, place: Place) -> tuple[str, ...]:
        """The names of the identity, under each key.

        Raises:
            UsageError: The client is not told, or a key cannot be read.
        """
        if tier.partition_by is PartitionBy.TOKEN and not self.client:
            raise click.UsageError(f"tier {tier.name} counts each client for itself: name one with --client")
        principal = Principal(place.issuer, self.tenant, self.client, self.client, tier.name, frozenset(), 0)
        shard_key = options.read_key(place.shard_key_file) if place.shards > 1 and place.shard_key_file else b""
        pseudonyms = Pseudonyms(*map(options.read_key, place.key_files), shards=place.shards, shard_key=shard_key)
        return pseudonyms.tids(principal.partition(tier.partition_by))

    def name(self, tier: Tier) -> str:
        """Of the identity, for people."""
        return self.client if tier.partition_by is PartitionBy.TOKEN else self.tenant
