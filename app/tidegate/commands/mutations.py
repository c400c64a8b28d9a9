"""`tidegate mutations`: what is known of a mutation, and how its unknown outcome is resolved by hand."""

import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import click
import msgspec

from tidegate.commands.mutation_question import Question, asks
from tidegate.contract.errors import TidegateError
from tidegate.idempotency.journal import Found, Journal
from tidegate.idempotency.record import NOT_FINAL, Claim, Result, Tombstone
from tidegate.store.base import Conflict

MAXIMUM_BODY_BYTES = 65_536
KEPT_SECONDS = 30 * 86_400
"""A result that was put in by hand is one that people will ask about again."""


class UnresolvableError(TidegateError):
    """The mutation has no unknown outcome, or it was resolved otherwise meanwhile."""


@click.group()
def mutations() -> None:
    """Look at a mutation by its idempotency key, or resolve its unknown outcome (docs/idempotency.md)."""


@mutations.command()
@asks
def show(**given: Any) -> None:
    """Say what is known of a mutation."""
    found = Question(**given).ask(lambda journal, name: journal.look_up(name))
    click.echo("\n".join(_lines(found)))


@mutations.command()
@asks
@click.option("--no-effect", is_flag=True, help="There was no effect, and none is on its way: the next retry has it.")
@click.option("--status", type=click.IntRange(200, 499), help="There was one, or there shall be none: answer retries with this status ...")
@click.option("--body", type=click.File("rb"), help="... and the JSON of this file; - reads it from the input.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def resolve(no_effect: bool, status: int | None, body: BinaryIO | None, yes: bool, **given: Any) -> None:
    """Resolve an unknown outcome: retries run again, or get the given result.

    The writes of the handler do not happen with a given result: put right by hand what they would have changed.
    """
    if no_effect == (status is not None) or (body and no_effect):
        raise click.UsageError("give either --no-effect or --status, the latter with or without --body")
    if status in NOT_FINAL:
        raise click.UsageError(f"--status {status} asks for another attempt: it cannot be the answer to all of them")
    question, content = Question(**given), _content(body, status)
    found = question.ask(lambda journal, name: journal.look_up(name))
    click.echo("\n".join(_lines(found)))
    claim = _unresolved(found)
    if not yes and click.prompt(f"Type {question.tenant} to resolve this", default="", show_default=False) != question.tenant:
        raise click.UsageError("that is another name: nothing was changed")
    headers = {"content-type": "application/json" if (status or 0) < 400 else "application/problem+json"} if content else {}
    result = Result(fingerprint=claim.fingerprint, status=status, headers=headers, body=content) if status else None
    click.echo("\n".join(_lines(question.ask(lambda journal, name: _resolve(journal, name, found, claim, result)))))


def _content(body: BinaryIO | None, status: int | None) -> bytes:
    content = body.read(MAXIMUM_BODY_BYTES + 1) if body else b""
    if len(content) > MAXIMUM_BODY_BYTES:
        raise click.UsageError(f"--body: more than {MAXIMUM_BODY_BYTES} bytes")
    if content and status in (204, 205, 304):
        raise click.UsageError(f"--status {status} has no body")
    try:
        if content:
            msgspec.json.decode(content)
    except msgspec.DecodeError as ex:
        raise click.UsageError(f"--body: not JSON: {ex}") from ex
    return content


async def _resolve(journal: Journal, name: str, found: Found, claim: Claim, result: Result | None) -> Found:
    if result:
        outcome = await journal.resolve(name, result, fencing=claim.fencing, version=found.version, kept_seconds=KEPT_SECONDS)
    else:
        outcome = await journal.mark_absent(name, claim, version=found.version)
    if isinstance(outcome, Conflict):
        raise UnresolvableError("the mutation has changed meanwhile: look at it again")
    return await journal.look_up(name)


def _unresolved(found: Found) -> Claim:
    if not isinstance(found.record, Claim):
        raise UnresolvableError("there is nothing to resolve")
    if found.is_live:
        raise UnresolvableError("a worker is at it: wait until it is done, or until its lease has ended")
    return found.record


def _lines(found: Found) -> Iterator[str]:
    match found.record:
        case None:
            yield "unknown: no such key was used, or all that was kept of it is gone"
        case Result(status=status, headers=headers, body=body):
            yield f"done: status {status}, {len(body)} bytes"
            yield from (f"  {field}: {value}" for field, value in headers.items())
        case Tombstone():
            yield "done: its result is kept no longer, and the key cannot be used again"
        case Claim() as claim:
            state = "in progress" if found.is_live else "resolved by hand: without effect" if claim.is_absent else "outcome unknown"
            yield f"{state}: claimed {max(0, time.time() - claim.started_at):.0f} s ago by the clock of its worker"
            yield f"  effect id {claim.effect_id}, fencing number {claim.fencing}"
