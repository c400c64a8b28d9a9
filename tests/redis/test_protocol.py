"""The bounds of a request's head and the refusals of what is not HTTP, over real sockets; and bodies that end too early."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from tidegate import protocol
from tidegate.protocol import HEAD_BYTES, BoundedProtocol

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(str(len(body)))).encode())]})
    await send({"type": "http.response.body", "body": str(len(body)).encode()})


@pytest.fixture
async def server(port: int) -> AsyncIterator[int]:
    config = uvicorn.Config(echo, port=port, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    while not running.started:
        await asyncio.sleep(0.01)
    yield port
    running.should_exit = True
    await task


async def ask(port: int, *parts: bytes) -> bytes:
    """Everything that the server says to these bytes before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


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


async def test_an_answer_is_sent_in_one_piece(server: int) -> None:
    """A worker that dies after the head would leave the edge with half an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    for _ in range(50):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read(65_536)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n0")
    writer.close()


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
