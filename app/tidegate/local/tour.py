"""`tidegate demo`: eight acts on a run of its own, each an assertion; called by `commands/local.py`."""

import re
import secrets
import shutil
import time
from pathlib import Path
from threading import Event

import click

from tidegate.local.client import Answer, Client
from tidegate.local.enforcement import read_enforcement
from tidegate.local.errors import ExpectationError, LocalRunError
from tidegate.local.keys import Grant
from tidegate.local.layout import Layout
from tidegate.local.neighbours import act_neighbours
from tidegate.local.overload import act_overload
from tidegate.local.programs import Capacity
from tidegate.local.run import Run, kill_region, start_region
from tidegate.local.stage import AMOUNT, Stage, done, expect, title
from tidegate.local.traffic import Traffic

LIMITED_PATH = "/v1/credits"
ENFORCED_SECONDS = 1.0
RETURN_SECONDS = 20.0
REQUESTS_AFTER_THE_KILL = 300
"""Through each edge."""
RAISE_FACTOR = 1000
"""Enough that the traffic of the third act, as fast as this machine can, is never refused."""


CAPACITY = Capacity(seats=6, shared_lane_memory="2mb")
"""So little that one laptop can ask for more."""


def tour(directory: Path, tiers: Path, stop: Event) -> None:
    """Play all acts in `directory`, on a copy of `tiers`.

    Raises:
        ExpectationError: An assertion failed.
        LocalRunError: The run cannot start.
    """
    layout = Layout.at(directory / "state", _copy(tiers, directory / "tiers"), 0)
    with Run(layout, CAPACITY) as run:
        click.echo("Starting two regions, a store and an operator ...")
        run.wait_until_ready(stop)
        if stop.is_set():
            raise LocalRunError("stopped")
        try:
            _play(Stage(run, run.keys.mint(Grant("enterprise")), stop))
        except OSError as ex:
            raise ExpectationError(f"expected: an answer; found: {ex}") from ex
    click.secho("Every assertion held.", fg="green", bold=True)


def _play(stage: Stage) -> None:
    _act_limits(stage)
    _act_tier_edit(stage)
    key = f"demo-{secrets.token_hex(8)}"
    bought = _act_region_loss(stage, key)
    _act_paid_once(stage, key, bought)
    _act_effect(stage, f"demo-{secrets.token_hex(8)}")
    _act_return(stage)
    act_overload(stage)
    act_neighbours(stage)


def _act_limits(stage: Stage) -> None:
    title("1. A limit is a limit, for its own token only")
    port = stage.edges[0]
    with Client(port, stage.run.keys.mint(Grant("free"))) as free:
        usage = free.get("/v1/usage")
        expect(usage.status == 200, "200 to GET /v1/usage", (usage.status, usage.body))
        limit = min(window["limit"] for window in usage.json()["windows"] if window["unit"] in ("Requests", "Cost"))
        answers = [free.get(LIMITED_PATH) for _ in range(limit + 1)]
    statuses, refused = [answer.status for answer in answers], answers[-1]
    expect(statuses == [200] * limit + [429], f"{limit} times 200, then 429", statuses)
    expect(int(refused.headers.get("retry-after", "0")) > 0, "a Retry-After of at least a second", dict(refused.headers))
    stage.get(port, LIMITED_PATH)
    done(f"free: {limit} passed, the next got 429 with Retry-After: {refused.headers['retry-after']}; enterprise passed")


def _act_tier_edit(stage: Stage) -> None:
    title("2. An edited tier is enforced everywhere within a second")
    regions = stage.run.layout.regions
    before = {region: read_enforcement(region.redis_socket).revision for region in regions}
    limit = _raise_limits(stage.run.layout.tiers / "enterprise.yaml")
    took = stage.until(
        lambda: all(read_enforcement(region.redis_socket).is_newer_than(before[region]) for region in regions),
        ENFORCED_SECONDS,
        "every worker of every region enforces the edited tier",
    )
    for region in regions:
        found = stage.get(region.api_port, "/v1/tiers/enterprise").json()["spec"]["windows"][0]["limit"]
        expect(found == limit, f"{region.name} enforces the limit {limit}", found)
    done(f"enterprise may now {limit}: enforced by every worker of {len(regions)} regions after {took * 1000:.0f} ms")


def _act_region_loss(stage: Stage, key: str) -> Answer:
    doomed = stage.run.layout.regions[0]
    title(f"3. {doomed.name.capitalize()} dies, and no client notices")
    bought = stage.purchase(stage.edges[0], key)
    expect(
        (bought.status, bought.region) == (201, doomed.name), f"a purchase answered 201 by {doomed.name}", (bought.status, bought.region)
    )
    with Traffic(stage.edges, stage.token, LIMITED_PATH) as traffic:
        stage.until(lambda: traffic.least_since(0) >= 50, 10.0, "50 requests through each edge before the kill")
        killed_at = time.monotonic()
        kill_region(stage.run.supervision, doomed.name)
        stage.until(
            lambda: traffic.least_since(killed_at) >= REQUESTS_AFTER_THE_KILL, 20.0, f"{REQUESTS_AFTER_THE_KILL} requests through each edge"
        )
    problems, after = traffic.problems(), sum(outcome.at >= killed_at for outcome in traffic.all())
    expect(not problems, "no failed request", f"{len(problems)} of {len(traffic.all())}, the first: {problems[:1]}")
    gap, last = traffic.longest_gap(killed_at), stage.get(stage.edges[0], LIMITED_PATH)
    expect(last.region not in ("", doomed.name), f"another region answers at the edge of {doomed.name}", last.region)
    done(f"API and Redis killed under load: 0 of {after} requests failed, same token; failover gap {gap * 1000:.0f} ms")
    return bought


def _act_paid_once(stage: Stage, key: str, bought: Answer) -> None:
    title("4. A purchase that is sent again is paid once")
    for port in stage.edges:
        again = stage.purchase(port, key)
        expect(again.headers.get("idempotent-replayed") == "true", "Idempotent-Replayed: true", (again.status, dict(again.headers)))
        expect((again.status, again.body) == (bought.status, bought.body), "the first answer, byte for byte", again.body)
    balance = stage.get(stage.edges[1], LIMITED_PATH).json()["balance"]
    expect(balance == AMOUNT, f"a balance of {AMOUNT}: counted once", balance)
    done(f"bought in a region that is dead now, replayed through {len(stage.edges)} edges, same bytes; balance {balance}: counted once")


def _act_effect(stage: Stage, key: str) -> None:
    title("5. A payment whose reply was lost is taken once")
    stage.lose_next_reply()
    lost = stage.pay(stage.edges[0], key)
    expect(lost.status == 503, "503: nobody knows yet whether money was taken", (lost.status, lost.body))
    first, again = (stage.pay(port, key) for port in stage.edges)
    expect((first.status, again.status) == (201, 201), "201 to each retry", (first.status, again.status))
    expect(first.body == again.body, "the same answer, byte for byte", again.body)
    expect(stage.charges() == 1, "one charge at the provider", stage.charges())
    done("the provider charged and cut the line; the retry asked it, found the charge and adopted it: one charge")


def _act_return(stage: Stage) -> None:
    back = stage.run.layout.regions[0]
    title(f"6. {back.name.capitalize()} comes back, with an empty Redis")
    with Traffic(stage.edges, stage.token, LIMITED_PATH) as traffic:
        start_region(stage.run.supervision, back.name)
        took = stage.until(
            lambda: any(outcome.region == back.name for outcome in traffic.all()), RETURN_SECONDS, f"{back.name} takes traffic again"
        )
    expect(not traffic.problems(), "no failed request", traffic.problems()[:1])
    tiers = [stage.get(region.api_port, "/v1/tiers/enterprise").body for region in stage.run.layout.regions]
    expect(len(set(tiers)) == 1, "the same tier in every region", tiers)
    done(f"tiers refilled, traffic again after {took:.1f} s, 0 of {len(traffic.all())} requests failed meanwhile")


def _raise_limits(manifest: Path) -> int:
    text = re.sub(r"\blimit: (\d+)", lambda found: f"limit: {int(found[1]) * RAISE_FACTOR}", manifest.read_text())
    manifest.write_text(text)
    return int(re.findall(r"\blimit: (\d+)", text)[0])


def _copy(tiers: Path, target: Path) -> Path:
    if not tiers.is_dir():
        raise LocalRunError(f"no directory {tiers} with tier manifests: run from the repository, or name one with --tiers")
    return Path(shutil.copytree(tiers, target))
