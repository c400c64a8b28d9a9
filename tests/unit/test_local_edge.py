"""The edge of a local run as a real Envoy carries it out, between two regions that only pretend."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.fake_api import FakeApi, serving

from tidegate.local.client import Client
from tidegate.local.edge import bootstrap
from tidegate.local.layout import Layout

ENVOY = Path(sys.executable).parent / "envoy"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.at(tmp_path, tmp_path, 0)


@pytest.fixture
def frankfurt(layout: Layout) -> Iterator[FakeApi]:
    """Frankfurt's API, with an edge of its own and Dublin behind it."""
    config = layout.state / "edge.json"
    config.write_text(json.dumps(bootstrap(layout.regions[0], layout.regions)))
    with ExitStack() as stack:
        own, _ = (stack.enter_context(serving(FakeApi(region.name, region.api_port))) for region in layout.regions)
        command = [str(ENVOY), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
        edge = stack.enter_context(subprocess.Popen(command))
        stack.callback(edge.kill)
        eventually(lambda: answers(layout, 10) == [(200, "frankfurt")] * 10)
        yield own


def answers(layout: Layout, count: int) -> list[tuple[int, str]]:
    """What a client hears that asks Frankfurt's edge so many times."""
    heard = []
    with suppress(OSError), Client(layout.regions[0].edge_port) as client:
        for _ in range(count):
            answer = client.get("/v1/credits")
            heard.append((answer.status, answer.region))
    return heard


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def test_a_region_that_fails_but_calls_itself_ready_is_left_alone_for_a_while(layout: Layout, frankfurt: FakeApi) -> None:
    """Three failures and it is out for a second, then for two: its health check, which passes, does not bring it back."""
    frankfurt.status = 503
    failures, outs, end = [time.monotonic()], [], time.monotonic() + 15

    while len(outs) < 2 and time.monotonic() < end:
        if answers(layout, 1) == [(503, "frankfurt")]:
            failures.append(time.monotonic())
            if failures[-1] - failures[-2] > 0.4:
                outs.append(failures[-1] - failures[-2])

    # More failures than three may be on their way when it is put out, on a busy machine; and a moment of each rest is over by then.
    assert len(failures) > 6
    assert [out > least for out, least in zip(outs, (0.6, 1.5), strict=True)] == [True, True], outs


def test_an_ejected_region_that_recovers_is_asked_again(layout: Layout, frankfurt: FakeApi) -> None:
    frankfurt.status = 503
    eventually(lambda: answers(layout, 1) == [(200, "dublin")])

    frankfurt.status = 200

    eventually(lambda: answers(layout, 1) == [(200, "frankfurt")], seconds=5)


def test_an_overloaded_region_is_neither_given_up_nor_relieved_at_the_expense_of_the_other(layout: Layout, frankfurt: FakeApi) -> None:
    """What it cannot serve is refused: 100 refusals in a row, of which three would eject a region that fails."""
    frankfurt.status, frankfurt.unavailable = 503, "capacity"

    assert answers(layout, 100) == [(503, "frankfurt")] * 100


def test_what_a_region_cannot_decide_is_asked_of_the_other(layout: Layout, frankfurt: FakeApi) -> None:
    frankfurt.status, frankfurt.unavailable = 503, "region"

    assert answers(layout, 20) == [(200, "dublin")] * 20
