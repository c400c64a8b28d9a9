"""The primaries of a Redis Cluster, each with a client of its own: a script goes where its keys lie; made by `connect.py`.

Not redis-py's cluster client. With that, the failure of one node makes every call, to whichever node, wait for another look at the
cluster; what it sends after ASKING may go over another connection; and a transaction starts a thread for each command.
"""

import asyncio
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.commands.core import AsyncScript
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ClusterError, MovedError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from tidegate.connections.url import Address

REDIRECTIONS = 3
"""Followed for one call; a cluster that moves a slot needs one."""


class _Range(NamedTuple):
    first: int
    """Its first slot; it ends where the next begins."""
    primary: Address


class Cluster:
    """A client with the part of redis-py's that rooms use: scripts and subscriptions.

    A call is sent once, and again only where a node refused it as another one's (MOVED, ASK) or did not know the script. A node that
    fails is looked for anew beside the calls, so that those to other nodes do not notice.

    Args:
        seeds: Any nodes, asked for all others.
        make: Makes the client of a node, with timeouts and without retries.
    """

    def __init__(self, seeds: Sequence[Address], make: Callable[[Address], Redis]) -> None:
        self._make = make
        self._clients = {seed: make(seed) for seed in seeds}
        self._seeds = tuple(self._clients)
        self._ranges: list[_Range] = []
        self._look: asyncio.Task[None] | None = None
        self._under_way: Counter[Address] = Counter()

    def register_script(self, script: str) -> "ClusterScript":
        """A script, sent to nobody yet."""
        return ClusterScript(self, self._clients[self._seeds[0]].register_script(script))

    def pubsub(self) -> PubSub:
        """A subscription, yet to be opened, at any node: each hears what is published at another. Another one at the next try."""
        return random.choice(list(self._clients.values())).pubsub()  # noqa: S311 - no secret

    async def aclose(self) -> None:
        """Close all connections."""
        if self._look:
            self._look.cancel()
            await asyncio.wait([self._look])
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))

    async def run(self, script: AsyncScript, keys: Sequence[str], args: Iterable[Any], is_wanted: Callable[[], bool] = lambda: True) -> Any:
        """The reply of `script`, from the primary of the slot that `keys` share; sent only if it still is wanted then."""
        slot = key_slot(keys[0].encode())
        address, is_asking = self._primary(slot) or await self._find(slot), False
        for _ in range(1 + REDIRECTIONS):
            client, called = self._client(address), address
            self._under_way[called] += 1
            try:
                await _connected(client)
                if not is_wanted():
                    raise RedisConnectionError("given up before it was sent")
                return await (_ask(client, script, keys, args) if is_asking else script(keys=keys, args=args, client=client))
            except MovedError as ex:
                address, is_asking = _named(ex, address), False
                self._look_again()
            except AskError as ex:
                address, is_asking = _named(ex, address), True
            except (RedisError, OSError):
                self._look_again()
                raise
            finally:
                self._under_way[called] -= 1
        raise ClusterError("redirected too often")

    def _client(self, address: Address) -> Redis:
        if address not in self._clients:
            self._clients[address] = self._make(address)
        return self._clients[address]

    def _primary(self, slot: int) -> Address | None:
        # Of a slot that nobody holds any primary says so.
        place = bisect_right(self._ranges, slot, key=lambda found: found.first)
        return self._ranges[max(0, place - 1)].primary if self._ranges else None

    async def _find(self, slot: int) -> Address:
        # Shielded: who asks may be cancelled, but others wait for the same look.
        await asyncio.shield(self._look_again())
        address = self._primary(slot)
        if address is None:
            raise ClusterDownError("no node tells who holds the slot")
        return address

    def _look_again(self) -> asyncio.Task[None]:
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_around())
        return self._look

    async def _look_around(self) -> None:
        # One after the other and in another order each time: one that is frozen costs its timeout.
        for address in random.sample(list(self._clients), len(self._clients)):
            with suppress(RedisError, OSError):
                found = await self._clients[address].execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
                # A node that lost its disk, or was never let in, knows of nobody: what others said stays.
                if ranges := sorted(_read(found, address)):
                    self._ranges = ranges
                    await self._forget_others({one.primary for one in ranges})
                    return

    async def _forget_others(self, primaries: set[Address]) -> None:
        # Not one that is asked just now, as a primary whose first slot is on its way: the next look finds it idle.
        busy = {address for address, calls in self._under_way.items() if calls}
        for address in set(self._clients) - primaries - set(self._seeds) - busy:
            await self._clients.pop(address).aclose()


class ClusterScript:
    """A script on a `Cluster`, called as those of redis-py are."""

    def __init__(self, cluster: Cluster, script: AsyncScript) -> None:
        self._cluster = cluster
        self._script = script

    async def __call__(self, keys: Sequence[str], args: Iterable[Any] = (), *, is_wanted: Callable[[], bool] = lambda: True) -> Any:
        """Run it where `keys` lie, which share a slot; unless, when it could be sent, it is not wanted any more."""
        return await self._cluster.run(self._script, keys, args, is_wanted)


async def _connected(client: Redis) -> None:
    # Or whoever gives up while a connection is made would be charged once it is.
    pool = client.connection_pool
    if not pool._available_connections:
        await pool.release(await pool.get_connection())  # type: ignore[no-untyped-call]


async def _ask(client: Redis, script: AsyncScript, keys: Sequence[str], args: Iterable[Any]) -> Any:
    # A slot on its way here: the word that lets one call in must come right before it, over the same connection.
    await client.script_load(script.script)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.execute_command("ASKING")
        pipeline.evalsha(script.sha, len(keys), *keys, *args)
        # Raised as they are: redis-py would put the command, keys and all, in front of what was said.
        replies = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies[1]


def _named(error: AskError, by: Address) -> Address:
    # A node that was not told its own name gives none: that of whoever was asked.
    return Address(error.host or by.host, error.port)


def _read(slots: Iterable[Any], by: Address) -> Iterable[_Range]:
    for first, _, (host, port, *_), *_ in slots:
        yield _Range(first, Address((host or b"").decode() or by.host, port))
