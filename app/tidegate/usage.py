"""The command `tidegate usage`: what an identity has used of its limits, or would have under another tier; part of `cli.py`.

In an API pod, which has the settings but not the local run: `python -m tidegate.usage`.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from tidegate.connections.url import RegionUrl
from tidegate.contract.errors import InvalidTierError, TidegateError
from tidegate.contract.tier import PartitionBy, Tier
from tidegate.identity.principal import Principal
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.limits.denial_memory import LONGEST_SECONDS
from tidegate.limits.inspection import Peeked, RegionUsage, Sweep
from tidegate.local.keys import ISSUER
from tidegate.local.layout import Layout, redis_url
from tidegate.settings import SettingsError, read_secret

PATH = click.Path(path_type=Path)
KEY_FILE, URL, ISSUER_NAME, SHARD_KEY_FILE = "--identity-key-file", "--redis-url", "--issuer", "--idempotency-key-file"
COLUMNS = (
    ("window", str.ljust),
    ("unit", str.ljust),
    ("limit", str.rjust),
    ("used", str.rjust),
    ("remaining", str.rjust),
    ("reset", str.rjust),
)


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
            raise click.UsageError(f"{URL} (or TIDEGATE_REDIS_URL) is missing: the Redis of the region")
        if not self.everyone and not self.identity_key_file:
            raise click.UsageError(f"{KEY_FILE} (or TIDEGATE_IDENTITY_KEY_FILE) is missing: usage is kept under names made with that key")
        if not self.everyone and not self.issuer:
            raise click.UsageError(f"{ISSUER_NAME} (or TIDEGATE_TOKEN_ISSUER) is missing: the `iss` of the customer's tokens")
        if not self.everyone and self.limits_shards > 1 and not self.idempotency_key_file:
            raise click.UsageError(f"{SHARD_KEY_FILE} (or TIDEGATE_IDEMPOTENCY_KEY_FILE) is missing: it chooses the shard of a customer")
        try:
            url = RegionUrl(self.redis_url)
            return Place({self.region or "this region": url}, key_files, self.issuer, self.limits_shards, self.idempotency_key_file)
        except ValueError as ex:
            raise click.UsageError(f"{URL}: {ex}") from None  # the cause may quote a password

    def _local_place(self) -> Place:
        layout = Layout.at(self.state, Path(), 0)
        key_file = layout.keys / "identity.key"
        if not key_file.exists():
            raise click.UsageError(f"no local run in {layout.state}; for another place give {URL}, {KEY_FILE} and {ISSUER_NAME}")
        regions = {region.name: RegionUrl(redis_url(region.redis_socket)) for region in layout.regions if self.region in ("", region.name)}
        if not regions:
            raise click.UsageError(f"the local run has no region {self.region!r}")
        return Place(regions, (key_file,), self.issuer or ISSUER)

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
        try:
            shard_key = read_secret(place.shard_key_file) if place.shards > 1 and place.shard_key_file else b""
            pseudonyms = Pseudonyms(*map(read_secret, place.key_files), shards=place.shards, shard_key=shard_key)
            return pseudonyms.tids(principal.partition(tier.partition_by))
        except SettingsError as ex:
            raise click.UsageError(str(ex)) from ex

    def name(self, tier: Tier) -> str:
        """Of the identity, for people."""
        return self.client if tier.partition_by is PartitionBy.TOKEN else self.tenant


@click.command()
@click.option("--tenant", default="", help="The customer, as in the claim `tenant`.")
@click.option("--client", default="", help="The customer's client, as in `client_id`; not needed where the tier counts by tenant.")
@click.option("--tier", default="", help="The tier under which it is counted; of several in the file of --simulate, the one.")
@click.option("--simulate", type=click.File(), metavar="FILE", help="Ask under the tier of a manifest instead; - reads it from the input.")
@click.option("--all", "everyone", is_flag=True, help="With --simulate: how many identities of the region would be refused now.")
@click.option("--reset", is_flag=True, help="Forget what the identity has used, of every window.")
@click.option("--yes", is_flag=True, help="Do not ask before --reset.")
@click.option(ISSUER_NAME, default="", envvar="TIDEGATE_TOKEN_ISSUER", show_envvar=True, help="`iss` of its tokens.")
@click.option(
    "--region", default="", envvar="TIDEGATE_REGION", show_envvar=True, help="Name of the region; of a local run, that one alone."
)
@click.option(URL, default="", envvar="TIDEGATE_REDIS_URL", show_envvar=True, help="Redis of the region.")
@click.option(KEY_FILE, type=PATH, envvar="TIDEGATE_IDENTITY_KEY_FILE", show_envvar=True, help="Key of the names that usage is kept under.")
@click.option(
    "--other-identity-key-file",
    type=PATH,
    envvar="TIDEGATE_OTHER_IDENTITY_KEY_FILE",
    show_envvar=True,
    help="The other key, while one replaces another.",
)
@click.option(
    "--limits-shards",
    type=click.IntRange(1, 256),
    default=1,
    envvar="TIDEGATE_LIMITS_SHARDS",
    show_envvar=True,
    help="Over how many shards usage is spread.",
)
@click.option(SHARD_KEY_FILE, type=PATH, envvar="TIDEGATE_IDEMPOTENCY_KEY_FILE", show_envvar=True, help="Key that chooses the shard.")
@click.option(
    "--state", type=PATH, default=Path(".tidegate"), show_default=True, help="Directory of the local run, asked if no Redis is named."
)
def usage(**given: Any) -> None:
    """Show what a customer has used of its limits; looking costs nothing and changes nothing."""
    question = Question(**given)
    question.check()
    place, simulated = question.place(), _read_tier(question) if question.simulate else None
    regions = [RegionUsage(name, url) for name, url in place.regions.items()]
    if simulated and question.everyone:
        for region in regions:
            click.echo(_sweep_text(region.region, simulated, region.sweep(simulated)))
        return
    asked = [(region, tier, question.tids(tier, place)) for region in regions for tier in [simulated or question.tier_in(region)]]
    for region, tier, tids in asked:
        click.echo("\n".join(_table(region.region, question.name(tier), tier, region.peek(tids, tier), is_simulated=bool(simulated))))
    if question.reset:
        _confirm(question, asked[0][1])
        for region, _, tids in asked:
            click.echo(f"{region.region}: {'forgotten' if region.forget(tids) else 'nothing was kept'}.")
        click.echo(f"Workers that remember a refusal may repeat it for {LONGEST_SECONDS:g} s more.")


def _read_tier(question: Question) -> Tier:
    import yaml  # in its place: the rest works without

    try:
        manifests = [
            manifest for manifest in yaml.safe_load_all(question.simulate or "") if manifest and manifest["kind"] == "RateLimitTier"
        ]
        tiers = [Tier.from_spec(manifest["metadata"]["name"], manifest["spec"]) for manifest in manifests]
    except InvalidTierError as ex:
        raise click.UsageError(f"the manifest of --simulate: {ex}") from ex
    except (yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as ex:
        raise click.UsageError("the file of --simulate is not a manifest of a RateLimitTier") from ex
    found = [tier for tier in tiers if question.tier in ("", tier.name)]
    if len(found) != 1:
        raise click.UsageError(f"name one tier of the file with --tier; it holds: {', '.join(tier.name for tier in tiers) or 'none'}")
    return found[0]


def _table(region: str, name: str, tier: Tier, windows: list[Peeked], *, is_simulated: bool) -> Iterator[str]:
    yield f"{region}: {name} under {'the given ' if is_simulated else ''}tier {tier.name}"
    rows = [[title for title, _ in COLUMNS], *map(_cells, windows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    refusals = ["", *(f"  refuses for {peeked.wait_seconds:.1f} s" if peeked.wait_seconds else "" for peeked in windows)]
    for row, refusal in zip(rows, refusals, strict=True):
        yield "  " + "  ".join(adjust(cell, width) for cell, width, (_, adjust) in zip(row, widths, COLUMNS, strict=True)) + refusal
    if is_simulated:
        refusing = [peeked.state.window.name for peeked in windows if peeked.wait_seconds]
        yield f"  Would be refused now by: {', '.join(refusing)}" if refusing else "  Would pass now"


def _cells(peeked: Peeked) -> list[str]:
    window, used, reset_seconds = peeked.state
    return [window.name, window.unit, f"{window.limit}", f"{used}", f"{peeked.state.remaining}", f"{reset_seconds:.1f} s"]


def _sweep_text(region: str, tier: Tier, sweep: Sweep) -> str:
    windows = ", ".join(f"{name} {count}" for name, count in sorted(sweep.by_window.items()))
    scope = f"the first {sweep.identities}" if sweep.is_cut_short else f"{sweep.identities}"
    return (
        f"{region}: tier {tier.name} would refuse {sweep.refused} of {scope} identities now{f' (by window: {windows})' if windows else ''}"
    )


def _confirm(question: Question, tier: Tier) -> None:
    name = question.name(tier)
    if not question.yes and click.prompt(f"Type {name} to forget all of this", default="", show_default=False) != name:
        raise click.UsageError("that is another name: nothing was forgotten")


if __name__ == "__main__":
    try:
        usage(prog_name="python -m tidegate.usage")
    except TidegateError as error:
        click.echo(f"tidegate: {error}", err=True)
        sys.exit(1)
