"""The connection of a script, against a real Valkey and through a network that cuts, halves and delays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from tidegate.limits.channel import ScriptChannel

SCRIPT = """
if ARGV[1] == 'fail' then return redis.error_reply('ODD this is refused') end
redis.call('INCR', KEYS[1])
return KEYS[1] .. '=' .. ARGV[1] .. string.rep('.', tonumber(ARGV[2] or 0))
"""

Make = Callable[[Redis], ScriptChannel]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes channels; they end with the test."""
    async with AsyncExitStack() as stack:

        def channel(redis: Redis) -> ScriptChannel:
            made = ScriptChannel(redis.connection_pool.make_connection, SCRIPT)
            stack.push_async_callback(made.aclose)
            return made

        yield channel


async def count(redis: Redis) -> int:
    return int(await redis.get("k") or 0)


async def test_calls_that_overlap_get_their_own_replies(redis: Redis, make: Make):
    """Also those that wait for the connection, and after the server has forgotten the script."""
    channel = make(redis)
    calls = [channel.call(["k"], [b"%d" % number]) for number in range(50)]
    found = await asyncio.gather(*calls)
    await redis.script_flush()

    found += await asyncio.gather(*(channel.call(["k"], [b"%d" % number]) for number in range(50, 100)))

    assert found == [b"k=%d" % number for number in range(100)]
    assert await count(redis) == 100


async def test_one_connection_serves_all_calls(redis: Redis, make: Make):
    channel = make(redis)
    before = (await redis.info("stats"))["total_connections_received"]

    for _ in range(3):
        await asyncio.gather(*(channel.call(["k"], [b"1"]) for _ in range(20)))

    assert (await redis.info("stats"))["total_connections_received"] == before + 1


async def test_a_refusal_is_an_error_of_its_own_call(redis: Redis, make: Make):
    channel = make(redis)

    outcomes = await asyncio.gather(*(channel.call(["k"], [word]) for word in (b"a", b"fail", b"b")), return_exceptions=True)

    assert [outcomes[0], outcomes[2]] == [b"k=a", b"k=b"]
    assert isinstance(outcomes[1], ResponseError)
    assert str(outcomes[1]).startswith("ODD")


async def test_what_was_cancelled_before_it_was_sent_is_not_sent(redis: Redis, make: Make):
    channel = make(redis)
    left, stayed = channel.call(["k"], [b"left"]), channel.call(["k"], [b"stayed"])
    left.cancel()

    assert await stayed == b"k=stayed"
    assert await count(redis) == 1


async def test_what_was_cancelled_after_it_was_sent_takes_nobodys_reply(redis: Redis, make: Make):
    channel = make(redis)
    await channel.call(["k"], [b"first"])
    left, stayed = channel.call(["k"], [b"left"]), channel.call(["k"], [b"stayed"])
    left.cancel()

    assert await stayed == b"k=stayed"


async def test_without_a_server_calls_fail_and_later_ones_try_again(valkeys: Callable[..., Any], make: Make):
    server = valkeys()
    server.kill()
    async with server.client(timeout=0.5) as redis:
        channel = make(redis)
        outcomes = await asyncio.gather(*(channel.call(["k"], [b"1"]) for _ in range(3)), return_exceptions=True)
        server.start()

        assert all(isinstance(outcome, RedisError) for outcome in outcomes)
        assert await channel.call(["k"], [b"2"]) == b"k=2"


async def test_a_killed_server_fails_whoever_waits(valkeys: Callable[..., Any], make: Make):
    server = valkeys()
    async with server.client() as redis:
        channel = make(redis)
        await channel.call(["k"], [b"1"])
        server.freeze()
        calls = [channel.call(["k"], [b"2"]) for _ in range(3)]
        server.kill()

        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        server.start()

        assert all(isinstance(outcome, RedisConnectionError) for outcome in outcomes)
        assert await channel.call(["k"], [b"3"]) == b"k=3"


async def test_what_cannot_be_connected_fails_its_calls(make: Make):
    """Whatever is wrong with it: nobody waits for ever."""
    channel = ScriptChannel(lambda: 1 / 0, SCRIPT)

    with pytest.raises(RedisConnectionError, match="ZeroDivisionError"):
        await channel.call(["k"], [b"1"])


class Late(Connection):
    """Connected a moment before anybody looks."""

    async def connect(self) -> None:
        await super().connect()
        await asyncio.sleep(0.1)


async def test_a_server_that_hung_up_before_we_read_fails_the_call():
    """uvloop, of which workers are made, tells nobody of an end that has come already."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def call(port: int) -> None:
        channel = ScriptChannel(lambda: Late(port=port, protocol=2, driver_info=None), SCRIPT)
        async with asyncio.timeout(2):
            await channel.call(["k"], [b"1"])

    async with await asyncio.start_server(hang_up, "127.0.0.1") as server:
        with pytest.raises(RedisConnectionError, match="not connected"):
            await asyncio.to_thread(uvloop.run, call(server.sockets[0].getsockname()[1]))


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_an_end_settles_everybody(valkeys: Callable[..., Any], make: Make, turns: int):
    server = valkeys()
    async with server.client() as redis:
        connected, connecting = make(redis), make(redis)
        await connected.call(["k"], [b"1"])
        server.freeze()
        calls = [channel.call(["k"], [b"2"]) for channel in (connected, connecting)]
        for _ in range(turns):
            await asyncio.sleep(0)

        async with asyncio.timeout(1):
            await connected.aclose()
            await connecting.aclose()
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        server.thaw()

    assert all(isinstance(outcome, RedisError) for outcome in outcomes)


Forward = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def network(port: int, back: Forward) -> AsyncIterator[int]:
    """A port whose connections lead to `port`; `back` brings what the server says to the client."""
    ends: set[asyncio.StreamWriter] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        ends.update((writer, to_server))

        async def there() -> None:
            while data := await reader.read(65_536):
                to_server.write(data)
            to_server.close()

        async def again() -> None:
            while data := await from_server.read(65_536):
                await back(data, writer)
            writer.close()

        await asyncio.gather(there(), again(), return_exceptions=True)

    async with await asyncio.start_server(connect, "127.0.0.1") as server:
        yield server.sockets[0].getsockname()[1]
        for end in ends:
            end.close()
        await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)


async def test_a_reply_may_come_in_any_pieces(valkey: Any, make: Make):
    async def byte_by_byte(data: bytes, writer: asyncio.StreamWriter) -> None:
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await asyncio.sleep(0)

    async with network(valkey.port, byte_by_byte) as port, Redis(port=port) as redis:
        channel = make(redis)
        calls = [channel.call(["k"], [b"%d" % number, b"1000"]) for number in range(3)]

        assert await asyncio.gather(*calls) == [b"k=%d" % number + b"." * 1000 for number in range(3)]


async def test_what_the_server_says_unasked_is_nobodys_reply(valkey: Any, make: Make):
    async def push(data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b">2\r\n+invalidate\r\n*0\r\n" + data if data.startswith(b"$") else data)

    async with network(valkey.port, push) as port, Redis(port=port) as redis:
        assert await make(redis).call(["k"], [b"1"]) == b"k=1"


async def test_a_reply_that_is_cut_off_fails_its_call_which_is_not_sent_again(valkey: Any, redis: Redis, make: Make):
    """W11: the script ran, and would charge twice."""
    is_cut = False

    async def cut(data: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal is_cut
        writer.write(data)
        if data.startswith(b"$") and not is_cut:
            is_cut = True
            writer.transport.abort()

    async def half(data: bytes, writer: asyncio.StreamWriter) -> None:
        await cut(data[: len(data) // 2] if data.startswith(b"$") and not is_cut else data, writer)

    async with network(valkey.port, half) as port, Redis(port=port) as slow:
        channel = make(slow)
        with pytest.raises(RedisConnectionError, match="lost"):
            await channel.call(["k"], [b"1", b"1000"])
        assert await count(redis) == 1

        assert await channel.call(["k"], [b"2"]) == b"k=2"
    assert await count(redis) == 2
