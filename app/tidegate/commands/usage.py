"""`tidegate usage`: what an identity has used of its limits, or would have under another tier."""

from collections.abc import Iterator
from typing import Any

import click

from tidegate.commands import options
from tidegate.commands.usage_question import KEY_FILE, Question
from tidegate.contract.errors import InvalidTierError
from tidegate.contract.tier import Tier
from tidegate.limits.denial_memory import LONGEST_SECONDS
from tidegate.limits.inspection import Peeked, RegionUsage, Sweep

COLUMNS = (
    ("window", str.ljust),
    ("unit", str.ljust),
    ("limit", str.rjust),
    ("used", str.rjust),
    ("remaining", str.rjust),
    ("reset", str.rjust),
)


@click.command()
@click.option("--tenant", default="", help="The customer, as in the claim `tenant`.")
@click.option("--client", default="", help="The customer's client, as in `client_id`; not needed where the tier counts by tenant.")
@click.option("--tier", default="", help="The tier under which it is counted; of several in the file of --simulate, the one.")
@click.option("--simulate", type=click.File(), metavar="FILE", help="Ask under the tier of a manifest instead; - reads it from the input.")
@click.option("--all", "everyone", is_flag=True, help="With --simulate: how many identities of the region would be refused now.")
@click.option("--reset", is_flag=True, help="Forget what the identity has used, of every window.")
@click.option("--yes", is_flag=True, help="Do not ask before --reset.")
@options.issuer
@options.region
@options.redis_url
@click.option(
    KEY_FILE, type=options.PATH, envvar="TIDEGATE_IDENTITY_KEY_FILE", show_envvar=True, help="Key of the names that usage is kept under."
)
@click.option(
    "--other-identity-key-file",
    type=options.PATH,
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
@options.idempotency_key_file
@options.state
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
