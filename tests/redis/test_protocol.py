"""The bounds of a request's head and the refusals of what is not HTTP, over real sockets; and bodies that end too early."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from tidegate.server import protocol
from tidegate.server.joined_writes import JoinedWrites
from tidegate.server.protocol import BoundedProtocol
from tidegate.server.refusals import HEAD_BYTES, MOST_WAITING

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


def answer_largely_in(pieces: int) -> Any:
    size = 20_000_000

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
        for piece in range(1, pieces + 1):
            await send({"type": "http.response.body", "body": b"a" * (size // pieces), "more_body": piece < pieces})

    return answer


Serve = Callable[..., Awaitable[ServerState]]


@pytest.fixture
async def serve(port: int) -> AsyncIterator[Serve]:
    """Serves an ASGI application on the port until the test ends; gives the state that all its connections share."""
    async with AsyncExitStack() as stack:
        yield lambda app, **options: stack.enter_async_context(serving(app, port, **options))


@asynccontextmanager
async def serving(app: Any, port: int, **options: Any) -> AsyncIterator[ServerState]:
    config, state, loop = uvicorn.Config(app, ws="none", log_config=None, **options), ServerState(), asyncio.get_running_loop()
    config.load()
    listener = await loop.create_server(lambda: BoundedProtocol(config, state, {}, _loop=loop), "127.0.0.1", port)
    try:
        yield state
    finally:
        listener.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


async def is_let_go(state: ServerState, seconds: float = 3) -> bool:
    """Whether every connection ends in that time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while state.connections:
                await asyncio.sleep(0.01)
    return not state.connections


async def ask(port: int, *parts: bytes, pause: float = 0) -> bytes:
    """Everything that the server says to these bytes, sent apart, before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            return await reader.read()
    finally:
        writer.close()


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    return dict(json.loads(body))


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
WHOLE = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_", [b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", GET + b"Content-Length: -1\r\n\r\n"]
)
async def test_what_is_not_http_is_answered_with_a_problem(serve: Serve, port: int, request_: bytes) -> None:
    """ERR-1, even where no application is asked."""
    await serve(echo)
    found = problem(await ask(port, request_))

    assert (found["status"], found["type"]) == (400, "about:blank")
    assert found["instance"].startswith("urn:uuid:")


@pytest.mark.parametrize("ending", [b"\r\n\r\n", b""])
async def test_a_head_that_is_too_large_is_refused(serve: Serve, port: int, ending: bytes) -> None:
    """API4: whether it ends or goes on for ever."""
    await serve(echo)
    large = [b"X: " + b"a" * HEAD_BYTES + b"\r\n", b"Y: " + b"a" * 300_000 + ending]

    found = problem(await ask(port, GET, *large))

    assert found["status"] == 431


async def test_a_large_head_and_a_large_body_in_one_write_are_told_apart(serve: Serve, port: int) -> None:
    await serve(echo)
    body = b"b" * 200_000
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"a" * (HEAD_BYTES - 200)

    answer = await ask(port, head + b"\r\nContent-Length: 200000\r\n\r\n" + body)

    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"200000")


async def test_many_requests_on_one_connection_are_not_added_up(serve: Serve, port: int) -> None:
    await serve(echo)
    one = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (HEAD_BYTES // 2) + b"\r\n\r\n"

    answer = await ask(port, one, one, one, GET + b"\r\n")

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
    transport = JoinedWrites(sink, asyncio.get_running_loop(), sink.close)

    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"body")
    transport.write(b"more")
    await asyncio.sleep(0)

    assert sink.sent == [b"HTTP/1.1 200 OK\r\n\r\nbody", b"more"]


async def test_a_head_that_nothing_follows_is_sent_all_the_same() -> None:
    sink = Sink()
    transport = JoinedWrites(sink, asyncio.get_running_loop(), sink.close)

    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await asyncio.sleep(0)
    transport.write(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    transport.close()

    assert sink.sent == [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n"]
    assert sink.is_closed


async def test_a_connection_may_pause_longer_than_a_head_may_take(serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a head is not that of an answer, nor of a pause between requests; and a stray line end begins no request."""
    await serve(echo)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.2)
    writer.close()


async def test_a_client_that_does_not_finish_its_request_is_let_go_once_it_is_answered(
    serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """API4: an answer before the end of the request, as 401 is, must not leave a connection without bounds of time and size."""
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    state = await serve(refuse_early, timeout_keep_alive=60)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nx")

    async with asyncio.timeout(3):
        assert (await reader.read()).startswith(b"HTTP/1.1 401")
    assert await is_let_go(state)
    writer.close()


async def test_a_client_that_was_answered_early_may_finish_and_go_on(serve: Serve, port: int) -> None:
    """Head and body in two segments are what many clients send; the next request on the connection must not be lost."""
    await serve(refuse_early)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"

    answers = await ask(port, post, b"12345", post, b"12345" + GET + b"\r\n", pause=0.05)

    assert statuses(answers) == [401, 401, 401]


async def test_whose_earlier_request_was_answered_may_take_time_for_the_next(
    serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    await serve(echo)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"

    assert statuses(await ask(port, WHOLE + post, b"12345", pause=0.3)) == [200, 200]


async def test_a_client_that_finished_after_its_answer_may_pause_no_longer_than_others(serve: Serve, port: int) -> None:
    await serve(refuse_early, timeout_keep_alive=0.1)

    assert statuses(await ask(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"12345", pause=0.05)) == [401]


async def test_a_stray_line_end_makes_no_connection_immortal(serve: Serve, port: int) -> None:
    await serve(echo, timeout_keep_alive=0.2)

    assert statuses(await ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n", pause=0.05)) == [200]


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"x"])
@pytest.mark.parametrize("length", [b"Content-Length: 36", b"Transfer-Encoding: chunked"])
async def test_no_upgrade_smuggles_a_request(serve: Serve, port: int, upgrade: bytes, length: bytes) -> None:
    """The parser takes a request to upgrade for one without content, and its content for the next request."""
    await serve(echo)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + b"\r\n" + length + b"\r\n\r\n"
    hidden = b"GET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\n"

    assert [statuses(await ask(port, post + hidden)), statuses(await ask(port, post, hidden, pause=0.05))] == [[400], [400]]


async def test_an_upgrade_is_not_taken_up_and_nothing_behind_it_is_read(serve: Serve, port: int) -> None:
    await serve(echo)
    get = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"

    assert [statuses(await ask(port, get, get, pause=0.05)), statuses(await ask(port, get + get))] == [[200], [200]]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /", 505),
        (b"GET / HTTP/0.9\r\nHost: x", 505),
        (b"GET / HTTP/2.0\r\nHost: x", 505),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ", 400),
    ],
)
async def test_what_is_no_sound_request_of_http_1_is_answered_with_a_problem(serve: Serve, port: int, head: bytes, status: int) -> None:
    """RFC 9112, 2.3, 3.2, 6.1 and 7.1."""
    await serve(echo)

    assert problem(await ask(port, head + b"\r\n\r\n"))["status"] == status


async def test_space_around_a_value_is_no_part_of_it(serve: Serve, port: int) -> None:
    """RFC 9110, 5.5: else a retry that another proxy sends is another request."""
    seen: dict[bytes, bytes] = {}

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["headers"])
        await refuse_early(scope, receive, send)

    await serve(look)
    await ask(port, GET + b"A: \t a b \t \r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n")

    assert (seen[b"a"], seen[b"transfer-encoding"]) == (b"a b", b"chunked")


async def test_http_1_0_needs_no_host(serve: Serve, port: int) -> None:
    await serve(echo)

    assert statuses(await ask(port, b"GET / HTTP/1.0\r\n\r\n")) == [200]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([WHOLE + b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n", b"12345"], [200, 200]),
        ([WHOLE, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"], [200]),
        ([WHOLE + b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"], [200, 400]),
        ([WHOLE + WHOLE + GET + b"\r\n"], [200, 200, 200]),
    ],
)
async def test_no_answer_is_lost_for_what_comes_behind_its_request(
    serve: Serve, port: int, parts: list[bytes], expected: list[int]
) -> None:
    """A request that was carried out is answered, whatever its client sends before that."""
    await serve(answer_slowly)

    assert statuses(await ask(port, *parts, pause=0.05)) == expected


async def test_nothing_is_done_on_a_connection_that_ends(serve: Serve, port: int) -> None:
    """RFC 9112, 9.6: a client that was told so takes what it sent behind for not done, and does it again."""
    done: list[str] = []

    async def end(scope: Any, receive: Any, send: Any) -> None:
        done.append(scope["path"])
        await asyncio.sleep(0.05)
        fields = [(b"content-length", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": fields})
        await send({"type": "http.response.body", "body": b""})

    await serve(end)
    buy = b"GET /buy HTTP/1.1\r\nHost: x\r\n\r\n"

    assert [statuses(await ask(port, WHOLE + buy)), statuses(await ask(port, WHOLE + buy + b"}garbage\r\n\r\n"))] == [[413], [413]]
    assert done == ["/", "/"]


async def test_an_answer_is_read_to_its_end_though_the_connection_ends(serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.1)
    await serve(answer_largely_in(1))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    await asyncio.sleep(0.3)

    async with asyncio.timeout(5):
        assert len(await reader.read()) > 20_000_000
    writer.close()


async def test_the_requests_that_wait_on_a_connection_are_bounded(serve: Serve, port: int) -> None:
    """API4: each would hold memory until its turn comes."""
    state = await serve(echo)

    answers = await ask(port, WHOLE * 5_000)

    assert statuses(answers) == [200] * (1 + MOST_WAITING)
    assert await is_let_go(state)


@pytest.mark.parametrize(("pieces", "is_held_back"), [(1, False), (20, False), (1, True)])
async def test_a_client_that_does_not_read_is_let_go(
    serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch, pieces: int, is_held_back: bool
) -> None:
    """API4: neither an answer that is sent whole nor an application that waits to go on with one may stay for ever, nor what is too
    little for an application to wait for it."""
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.2)
    if is_held_back:
        monkeypatch.setattr(BoundedProtocol, "pause_writing", lambda _: None)
    state = await serve(answer_largely_in(pieces), timeout_keep_alive=0.2)
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(WHOLE)
    await asyncio.sleep(0.1)
    assert state.connections

    assert await is_let_go(state)
    writer.close()


async def test_a_client_that_sends_no_more_is_still_answered(serve: Serve, port: int) -> None:
    await serve(answer_slowly)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(WHOLE)
    writer.write_eof()

    async with asyncio.timeout(3):
        assert (await reader.read()).endswith(b"done")
    writer.close()


async def test_a_large_chunked_body_is_content_and_no_framing(serve: Serve, port: int) -> None:
    await serve(echo)
    chunk = b"10000\r\n" + b"a" * 65_536 + b"\r\n"

    answer = await ask(port, GET.replace(b"GET", b"PUT") + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40, b"0\r\n\r\n")

    assert answer.endswith(str(40 * 65_536).encode())


async def test_no_trailer_is_a_header_and_trailers_are_bounded(serve: Serve, port: int) -> None:
    """RFC 9110, 6.5.1: what signs, authorizes or names a request stands in front of it."""
    await serve(name_fields)
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"

    answer = await ask(port, chunked + b'Idempotency-Key: "a-trailer-key-0001"\r\n\r\n')
    endless = await ask(port, chunked, *[b"x: " + b"y" * 65_000 + b"\r\n"] * 20)

    assert answer.endswith(b"host connection transfer-encoding")
    assert statuses(endless) == [413]


async def test_an_answer_under_way_is_not_written_into(serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage behind a sound request costs the connection, not the answer to what was carried out."""
    await serve(answer_slowly)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)

    answers = [await ask(port, WHOLE + b"}garbage"), await ask(port, WHOLE + b"GET /n HT")]

    assert [answer.count(b"HTTP/1.1 ") for answer in answers] == [1, 1]
    assert all(answer.endswith(b"done") for answer in answers)


async def test_nothing_is_said_after_a_refusal(serve: Serve, port: int, caplog: pytest.LogCaptureFixture) -> None:
    """An application that does not wait for the rest of a request may answer after it turned out to be none."""
    is_answered = asyncio.Event()

    async def answer_late(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await refuse_early(scope, receive, send)
        is_answered.set()

    await serve(answer_late)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post + b"ZZ\r\n")
    async with asyncio.timeout(3):
        assert statuses(await reader.read()) == [400]
        await is_answered.wait()
    assert not caplog.records
    writer.close()


async def test_a_client_that_asks_whether_to_go_on_is_told_at_once(serve: Serve, port: int) -> None:
    await serve(echo)
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        writer.write(b"abc")
        assert (await reader.read()).endswith(b"3")
    writer.close()


async def test_a_slow_head_is_given_up(serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await serve(echo)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)

    found = problem(await ask(port, b"GET / HT"))

    assert found["status"] == 408


async def test_a_silent_connection_is_closed_without_a_word(serve: Serve, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await serve(echo)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)

    assert await ask(port) == b""
