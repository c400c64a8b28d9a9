"""The bounds of a request's head and the refusals of what is not HTTP, over real sockets; and bodies that end too early."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from tidegate.server import protocol
from tidegate.server.protocol import HEAD_BYTES, BoundedProtocol, JoinedWrites

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(str(len(body)))).encode())]})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


async def refuse_early(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})


async def name_fields(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    body = b" ".join(name for name, _ in scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


async def answer_slowly(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await asyncio.sleep(0.2)
    await send({"type": "http.response.body", "body": b"done"})


def problem_or_nothing(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.fixture
async def server(port: int) -> AsyncIterator[int]:
    async with serving(echo, port):
        yield port


@pytest.fixture
async def early(port: int) -> AsyncIterator[int]:
    async with serving(refuse_early, port):
        yield port


@pytest.fixture
async def fields(port: int) -> AsyncIterator[int]:
    async with serving(name_fields, port):
        yield port


@pytest.fixture
async def slow(port: int) -> AsyncIterator[int]:
    async with serving(answer_slowly, port):
        yield port


@asynccontextmanager
async def serving(app: Any, port: int) -> AsyncIterator[None]:
    config = uvicorn.Config(app, port=port, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        running.should_exit = running.force_exit = True
        await task


async def ask(port: int, *parts: bytes) -> bytes:
    """Everything that the server says to these bytes before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
            return await reader.read()
    finally:
        writer.close()


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return dict(json.loads(body))


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "request_", [b"BREW / HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", GET + b"Content-Length: -1\r\n\r\n"]
)
async def test_what_is_not_http_is_answered_with_a_problem(server: int, request_: bytes) -> None:
    """ERR-1, even where no application is asked."""
    found = problem(await ask(server, request_))

    assert (found["status"], found["type"]) == (400, "about:blank")
    assert found["instance"].startswith("urn:uuid:")


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b""])
async def test_a_head_that_is_too_large_is_refused(server: int, ending: bytes) -> None:
    """API4: whether it ends or goes on for ever."""
    large = [b"X: " + b"a" * HEAD_BYTES + b"\r\n", b"Y: " + b"a" * 300_000 + ending]

    found = problem(await ask(server, GET, *large))

    assert found["status"] == 431


async def test_a_large_head_and_a_large_body_in_one_write_are_told_apart(server: int) -> None:
    body = b"b" * 200_000
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"a" * (HEAD_BYTES - 200)

    answer = await ask(server, head + b"\r\nContent-Length: 200000\r\n\r\n" + body)

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"200000")


async def test_many_requests_on_one_connection_are_not_added_up(server: int) -> None:
    one = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (HEAD_BYTES // 2) + b"\r\n\r\n"

    answer = await ask(server, one, one, one, GET + b"\r\n")

    assert answer.count(b"HTTP/1.1 200") == 4


class Sink:
    """A transport that remembers what was sent in one call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.is_closed = True


async def test_an_answer_is_sent_in_one_piece() -> None:
    """A worker that dies after the head would leave the edge with half an answer."""
    sink = Sink()
    transport = JoinedWrites(sink, asyncio.get_running_loop())

    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)

    assert sink.sent == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]


async def test_a_head_that_nothing_follows_is_sent_all_the_same() -> None:
    sink = Sink()
    transport = JoinedWrites(sink, asyncio.get_running_loop())

    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await asyncio.sleep(0)
    transport.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    transport.close()

    assert sink.sent == [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"]
    assert sink.is_closed


async def test_a_connection_may_pause_longer_than_a_head_may_take(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a head is not that of an answer, nor of a pause between requests; and a stray line end begins no request."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
    writer.close()


async def test_a_client_that_does_not_finish_its_request_is_let_go_once_it_is_answered(early: int) -> None:
    """API4: an answer before the end of the request, as 401 is, must not leave a connection without bounds of time and size."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n"

    answer = await ask(early, head, b"x")

    assert answer.startswith(b"HTTP/1.1 401")


async def test_no_trailer_is_a_header_and_trailers_are_bounded(fields: int) -> None:
    """RFC 9110, 6.5.1: what signs, authorizes or names a request stands in front of it."""
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"

    answer = await ask(fields, chunked + b'Idempotency-Key: "a-trailer-key-0001"\r\n\r\n')
    endless = problem_or_nothing(await ask(fields, chunked, *[b"x: " + b"y" * 65_000 + b"\r\n"] * 20))

    assert answer.endswith(b"host connection transfer-encoding")
    assert endless != 200


async def test_an_answer_under_way_is_not_written_into(slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage behind a sound request costs the connection, not the answer to what was carried out."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    answers = [await ask(slow, whole + b"}garbage"), await ask(slow, whole + b"GET /n HT")]

    assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [1, 1]
    assert all(answer.endswith(b"done") for answer in answers)


async def test_a_client_that_asks_whether_to_go_on_is_told_at_once(server: int) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(head)
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        writer.write(b"abc")
        assert (await reader.read()).endswith(b"3")
    writer.close()


async def test_a_slow_head_is_given_up(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)

    found = problem(await ask(server, b"GET / HT"))

    assert found["status"] == 408


async def test_a_silent_connection_is_closed_without_a_word(server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)

    assert await ask(server) == b""
