"""What the acts of the tour play on, what they say and the assertion that they make; called by them and by `tour.py`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

import click

from tidegate.local.client import Answer, Client
from tidegate.local.errors import ExpectationError, LocalRunError
from tidegate.local.run import Run

PURCHASES_PATH = "/v1/credits/purchases"
PAYMENTS_PATH = "/v1/payments"
AMOUNT = 500
POLL_SECONDS = 0.002
MANY = 1_000_000
"""More charges than any act has."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the acts play on: a ready run, the enterprise token that is used throughout, and the wish to stop."""

    run: Run
    token: str
    stop: Event

    @property
    def edges(self) -> list[int]:
        """Ports of the edges, that of the region to be killed first."""
        return [region.edge_port for region in self.run.layout.regions]

    def get(self, port: int, path: str) -> Answer:
        """One request on a new connection.

        Raises:
            ExpectationError: It is not answered with 200.
        """
        with Client(port, self.token) as client:
            answer = client.get(path)
        expect(answer.status == 200, f"200 to GET {path} on port {port}", (answer.status, answer.body))
        return answer

    def purchase(self, port: int, key: str) -> Answer:
        """One purchase of `AMOUNT` on a new connection."""
        with Client(port, self.token) as client:
            return client.post(PURCHASES_PATH, {"amount": AMOUNT}, key)

    def pay(self, port: int, key: str) -> Answer:
        """One payment of `AMOUNT` on a new connection."""
        with Client(port, self.token) as client:
            return client.post(PAYMENTS_PATH, {"amount": AMOUNT}, key)

    def charges(self) -> int:
        """How often the payment provider has taken money."""
        with Client(self.run.layout.payments_port) as client:
            return sum(map(len, client.get("/charges").json().values()))

    def lose_next_reply(self) -> None:
        """Have the payment provider cut the connection after its next charge."""
        self._ask_for({"kind": "drop_reply"})

    @contextmanager
    def slow_payments(self, seconds: float) -> Iterator[None]:
        """Have the payment provider take so long for each charge in the block."""
        self._ask_for({"kind": "slow", "times": MANY, "seconds": seconds})
        try:
            yield
        finally:
            self._ask_for({})

    def _ask_for(self, fault: dict[str, object]) -> None:
        with Client(self.run.layout.payments_port) as client:
            client.post("/faults", fault, "")

    def until(self, condition: Callable[[], bool], seconds: float, wish: str) -> float:
        """Seconds until `condition` holds.

        Raises:
            ExpectationError: It does not within `seconds`.
            LocalRunError: The tour is to stop.
        """
        began = time.monotonic()
        while not condition():
            if self.stop.wait(POLL_SECONDS):
                raise LocalRunError("stopped")
            expect(time.monotonic() - began < seconds, wish, f"not within {seconds:g} s")
        return time.monotonic() - began


def expect(holds: bool, wish: str, found: object = "") -> None:
    """Go on if an assertion holds.

    Raises:
        ExpectationError: It does not; the text says what was expected and what was found.
    """
    if not holds:
        raise ExpectationError(f"expected: {wish}; found: {found}")


def title(text: str) -> None:
    """Begin an act."""
    click.secho(f"\n{text}", bold=True)


def done(text: str) -> None:
    """End an act whose assertions held, with what it has shown."""
    click.echo(click.style("  ok  ", fg="green") + text)
