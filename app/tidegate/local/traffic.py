"""Requests without a pause through every edge, each remembered; called by `tour.py` to see what clients see when a region dies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Event, Thread
from types import TracebackType
from typing import Self

from tidegate.local.client import Client


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: when it ended (monotonic seconds), which region answered, and what was wrong (empty when nothing)."""

    at: float
    region: str
    problem: str


class Traffic:
    """One client per edge, each sending its next request when the last is answered; runs inside its `with` block.

    Args:
        ports: The edges.
        token: Sent with every request.
        path: What is asked for.
    """

    def __init__(self, ports: Sequence[int], token: str, path: str) -> None:
        self._outcomes: dict[int, list[Outcome]] = {port: [] for port in ports}
        self._stop = Event()
        self._threads = [Thread(target=self._send, args=(port, token, path)) for port in ports]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def least_since(self, moment: float) -> int:
        """How many requests have been answered since `moment` at the edge that answered fewest."""
        return min(sum(outcome.at >= moment for outcome in tuple(outcomes)) for outcomes in self._outcomes.values())

    def all(self) -> list[Outcome]:
        """Every outcome so far."""
        return [outcome for outcomes in self._outcomes.values() for outcome in tuple(outcomes)]

    def problems(self) -> list[str]:
        """What was wrong with each failed request."""
        return [outcome.problem for outcome in self.all() if outcome.problem]

    def longest_gap(self, moment: float) -> float:
        """Longest time, in seconds, that one client went from a success to its next, from `moment` on."""
        return max(longest_gap(outcomes, moment) for outcomes in self._outcomes.values())

    def _send(self, port: int, token: str, path: str) -> None:
        with Client(port, token) as client:
            while not self._stop.is_set():
                self._outcomes[port].append(_outcome(client, path))


def longest_gap(outcomes: Sequence[Outcome], moment: float) -> float:
    """Longest time, in seconds, between two successes one after the other, the later of them after `moment`."""
    successes = [outcome.at for outcome in outcomes if not outcome.problem]
    return max((later - earlier for earlier, later in pairwise(successes) if later >= moment), default=float("inf"))


def _outcome(client: Client, path: str) -> Outcome:
    try:
        answer = client.get(path)
    except OSError as ex:
        return Outcome(time.monotonic(), "", str(ex))
    problem = "" if answer.status == 200 else f"status {answer.status}: {answer.body.decode(errors='replace')}"
    return Outcome(time.monotonic(), answer.region, problem)
