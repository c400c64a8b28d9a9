"""The customers of the tour, against a server that answers as told, and what the tour shows of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tidegate.local.crowd import Crowd, Customer, Flood, Payment
from tidegate.local.errors import ExpectationError
from tidegate.local.overload import longest_queue, p99, table
from tidegate.local.screen import Screen

Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """Port of a server whose every answer is `answer`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port
        yield server.port


async def test_payments_go_out_whatever_became_of_those_before() -> None:
    """None is answered before all have been asked: whoever waited for an answer would wait for ever."""
    requests, all_here = 30, asyncio.Event()
    arrived = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == requests:
            all_here.set()
        await all_here.wait()
        return web.Response(status=201)

    async with serving(answer) as port, asyncio.timeout(10):
        crowd = Crowd(port, [Customer("pro", "a", 10), Customer("free", "b", 20)], 0.2)
        await crowd.pay()

    assert [sum(payment.tier == tier for payment in crowd.payments) for tier in ("pro", "free")] == [10, 20]
    assert all(payment.is_admitted for payment in crowd.payments)


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        (201, {}, (True, False, 0.0)),
        (201, {"Server-Timing": "queue;dur=250.5"}, (True, False, 0.2505)),
        (503, {"Tidegate-Unavailable": "capacity", "Server-Timing": "queue;dur=2000.0"}, (False, True, 2.0)),
    ],
)
async def test_an_answer_is_told_from_a_refusal_for_want_of_a_seat(
    status: int, fields: dict[str, str], expected: tuple[bool, bool, float]
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers=fields)

    async with serving(answer) as port:
        crowd = Crowd(port, [Customer("pro", "a", 1)], 0.01)
        await crowd.pay()

    [payment] = crowd.payments
    assert (payment.is_admitted, payment.is_refused, payment.queue_seconds) == expected
    assert payment.problem == ""


async def test_any_other_answer_is_a_problem() -> None:
    """As one for want of a region, or for a spent quota, would be: the act has to do with seats alone."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Tidegate-Unavailable": "region"}, text="no region")

    async with serving(answer) as port:
        crowd = Crowd(port, [Customer("pro", "a", 1)], 0.01)
        await crowd.pay()

    assert crowd.payments[0].problem == "status 503: no region"


async def test_a_server_that_is_gone_is_a_problem_of_each_payment(unused_tcp_port: int) -> None:
    crowd = Crowd(unused_tcp_port, [Customer("pro", "a", 3)], 0.01)

    await crowd.pay()

    assert [payment.problem.startswith("no answer: ") for payment in crowd.payments] == [True] * 3


async def test_a_flood_asks_each_time_for_another_answer_until_it_is_told_to_end() -> None:
    asked = []
    enough = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        if len(asked) >= 20:
            enough.set()
        return web.Response()

    async with serving(answer) as port:
        flood = Flood(port, ["a", "b", "c"], ["/one", "/two"])
        reading = asyncio.create_task(flood.read())
        async with asyncio.timeout(10):
            await enough.wait()
        reading.cancel()
        await asyncio.wait({reading})

    assert len(set(asked)) == len(asked) >= 20
    assert {path.partition("?")[0] for path in asked} == {"/one", "/two"}
    assert flood.answers <= len(asked)


async def test_a_flood_ends_at_the_first_answer_that_is_none() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=429, text="too many")

    async with serving(answer) as port:
        with pytest.raises(ExpectationError, match=r"expected: 200 to GET /one; found: \(429, 'too many'\)"):
            await Flood(port, ["a"], ["/one"]).read()


PAYMENTS = [
    Payment("enterprise", due=1.0, ended=1.25, is_admitted=True),
    Payment("free", due=1.0, ended=3.0, is_refused=True, queue_seconds=2.0),
    Payment("free", due=2.0, ended=3.5, is_admitted=True, queue_seconds=1.3),
    Payment("free", due=3.2),
]


def test_the_table_of_a_second_counts_what_happened_in_it_and_what_waits_now() -> None:
    _, enterprise, pro, free = (line.split() for line in table(PAYMENTS, since=2.5))

    assert enterprise[:5] == ["enterprise", "0", "0", "0", "0"]
    assert pro[:5] == ["pro", "0", "0", "0", "0"]
    assert free == ["free", "1", "1", "1", "1", "2.0", "s", "1.50", "s"]


def test_the_table_of_all_counts_who_was_in_the_queue() -> None:
    _, enterprise, _, free = (line.split() for line in table(PAYMENTS))

    assert enterprise == ["enterprise", "1", "1", "0", "0", "0.0", "s", "0.25", "s"]
    assert free[:5] == ["free", "3", "1", "2", "1"]


def test_latency_counts_from_when_a_payment_was_due_and_refusals_have_none() -> None:
    served = [Payment("pro", due=0.0, ended=second / 10, is_admitted=True) for second in range(1, 101)]

    assert p99([*served, Payment("pro", due=0.0, ended=60.0, is_refused=True)]) == 9.9
    assert p99([]) == longest_queue([]) == 0.0


def test_lines_are_drawn_over_the_last_ones_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    screen = Screen()

    screen.draw(["one", "two"])
    screen.finish(["three", "four"])

    assert capsys.readouterr().out == "one\ntwo\n\x1b[2A\x1b[Jthree\nfour\n"


def test_where_there_is_no_terminal_only_the_last_lines_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()

    screen.draw(["one"])
    screen.finish(["two"])

    assert capsys.readouterr().out == "two\n"
