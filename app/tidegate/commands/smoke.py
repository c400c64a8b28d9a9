"""`tidegate smoke`: asks an installation what a customer would; run by `helm test` in a pod of the API's image."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import click

from tidegate.commands import options
from tidegate.contract.errors import TidegateError

TIMEOUT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
"""An earlier test may have used the token's quota up: so long is waited for it."""
REACH_SECONDS, RETRY_SECONDS = 5.0, 0.2
"""How long a refused connection is tried again: a network with policies lets a new pod through a moment late, node by node."""
MOST_REQUESTS = 1000
"""To meet a limit; a tier that allows more is for another token."""
PATH, PURCHASES = "/v1/credits", "/v1/credits/purchases"


class SmokeError(TidegateError):
    """The installation did not answer as it should; the text says what was asked, expected and heard."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def is_problem(self) -> bool:
        """Whether it is a problem by RFC 9457."""
        return self.headers.get("content-type", "").startswith("application/problem+json")


class Customer:
    """Asks with a token; without one if it is empty."""

    def __init__(self, token: str = "") -> None:
        self._fields = {"Authorization": f"Bearer {token}"} if token else {}

    def ask(self, url: str, fields: Mapping[str, str] | None = None, content: object = None) -> Answer:
        """GET, or POST where there is `content`, which is sent as JSON; tried again where the connection is refused, as nothing was sent.

        Raises:
            SmokeError: There was no answer.
        """
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(url, data, {**self._fields, **(fields or {})})  # noqa: S310 - of the command line's scheme
        give_up_at = time.monotonic() + REACH_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as found:  # noqa: S310
                    return _answer(found)
            except urllib.error.HTTPError as ex:
                with ex:
                    return _answer(ex)
            except (OSError, HTTPException) as ex:
                is_refused = isinstance(getattr(ex, "reason", None), ConnectionRefusedError)
                if not is_refused or time.monotonic() > give_up_at:
                    raise SmokeError(f"{url}: no answer: {ex}") from ex
            time.sleep(RETRY_SECONDS)

    def buy(self, url: str, key: str) -> Answer:
        """A purchase of one cent under an idempotency key; waits while the quota is used up."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self.ask(url + PURCHASES, {"Content-Type": "application/json", "Idempotency-Key": f'"{key}"'}, {"amount": 1})
            wait_seconds = int(answer.headers.get("retry-after", "0"))
            if answer.status != 429 or time.monotonic() + wait_seconds > deadline:
                return answer
            time.sleep(wait_seconds)


def _answer(found: Any) -> Answer:
    return Answer(found.status, {name.lower(): value for name, value in found.headers.items()}, found.read())


def _expect(is_so: bool, what: str, answer: Answer) -> None:
    if not is_so:
        raise SmokeError(f"expected: {what}; heard: {answer.status} {answer.body[:300].decode(errors='replace')}")


def _is_up(url: str) -> None:
    nobody = Customer()
    answer = nobody.ask(f"{url}/readyz")
    _expect(answer.status == 200, f"{url} is ready", answer)
    answer = nobody.ask(f"{url}/v1/usage")
    _expect(answer.status == 401 and answer.is_problem, f"401 and a problem from {url} without a token", answer)


def _shows_tier(customer: Customer, url: str) -> None:
    answer = customer.ask(f"{url}/v1/usage")
    _expect(answer.status == 200, f"{url} takes the token", answer)
    tier = answer.json()["tier"]
    answer = customer.ask(f"{url}/v1/tiers/{tier}")
    _expect(answer.status in (200, 429), f"{url} shows the tier {tier}", answer)
    click.echo(f"ok  {url} enforces the tier {tier}")


def _does_once(customer: Customer, urls: Sequence[str]) -> None:
    key = uuid.uuid4().hex
    first = customer.buy(urls[0], key)
    _expect(first.status == 201, f"a purchase is made at {urls[0]}", first)
    for url in urls:
        again = customer.buy(url, key)
        is_replay = (again.status, again.body) == (201, first.body) and again.headers.get("idempotent-replayed") == "true"
        _expect(is_replay, f"the same purchase is replayed at {url}, byte for byte", again)
    click.echo(f"ok  a purchase was made once and replayed {len(urls)} times")


def _meets_limit(customer: Customer, url: str) -> None:
    windows = customer.ask(f"{url}/v1/usage").json()["windows"]
    limit = min((int(window["limit"]) for window in windows if window["unit"] in ("Requests", "Cost")), default=MOST_REQUESTS + 1)
    if limit > MOST_REQUESTS:
        click.echo(f"--  no 429: the token's tier allows more than {MOST_REQUESTS} requests; name a smaller one to see it")
        return
    passed, answer = 0, customer.ask(url + PATH)
    # Twice the limit: the window may move on meanwhile.
    while answer.status == 200 and passed < 2 * limit:
        passed, answer = passed + 1, customer.ask(url + PATH)
    is_refusal = answer.status == 429 and answer.is_problem and int(answer.headers.get("retry-after", "0")) > 0
    _expect(is_refusal, f"429 with Retry-After from {url} past the limit of {limit}", answer)
    click.echo(f"ok  {url} answered {passed} requests, and then 429 with Retry-After: {answer.headers['retry-after']}")


@click.command()
@click.argument("urls", nargs=-1, required=True)
@click.option("--token-file", type=options.PATH, help="File with an access token; without one, only what needs none is asked.")
def smoke(urls: tuple[str, ...], token_file: Path | None) -> None:
    """Ask the installation at URLS; exit status 1 and a sentence if it does not answer as it should.

    The limit is met at the first, which should be one region: each counts for itself.
    """
    for url in urls:
        _is_up(url)
        click.echo(f"ok  {url} is ready, and refuses who has no token")
    if not (token_file and token_file.exists()):
        click.echo("--  no tier, purchase or limit: there is no token")
        return
    customer = Customer(token_file.read_text().strip())
    for url in urls:
        _shows_tier(customer, url)
    _does_once(customer, urls)
    _meets_limit(customer, urls[0])
