"""Calls one script on a Redis Cluster, for `redis.py`; what `channel.py` is for one server."""

import asyncio
from collections.abc import Sequence

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from tidegate.connections.cluster import ClusterScript
from tidegate.limits.channel import Reply


class ClusterChannel:
    """Calls `script` where the keys of each call lie, over the connections of its `Cluster`, which ends each call in time."""

    def __init__(self, script: ClusterScript) -> None:
        self._script = script
        self._calls: dict[asyncio.Task[None], Reply] = {}

    def call(self, keys: Sequence[str], arguments: Sequence[bytes]) -> Reply:
        """The script's reply. The future fails with `redis.exceptions.RedisError`, and then nobody knows whether the script ran."""
        reply: Reply = asyncio.get_running_loop().create_future()
        call = asyncio.create_task(self._carry_out(reply, keys, arguments))
        self._calls[call] = reply
        call.add_done_callback(self._calls.pop)
        return reply

    async def open(self) -> bool:
        """Nothing: its `Cluster` has connected for the tiers, which are there first."""
        return True

    def drop(self) -> None:
        """Nothing: a connection that hangs is given up by its own deadline."""

    async def aclose(self) -> None:
        """End what is under way."""
        for call, reply in self._calls.items():
            call.cancel()
            _fail(reply, RedisConnectionError("this worker stops"))
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _carry_out(self, reply: Reply, keys: Sequence[str], arguments: Sequence[bytes]) -> None:
        # Not ended with its reply: what is slow may be the connecting, which must come to an end or there never is a connection.
        try:
            answer = await self._script(keys, arguments, is_wanted=lambda: not reply.done())
        except (RedisError, OSError, TimeoutError) as ex:
            # The text of others holds addresses.
            _fail(reply, ex if type(ex) is ResponseError else RedisConnectionError(type(ex).__name__))
        except Exception as ex:  # noqa: BLE001 - whoever waits is to hear of it
            _fail(reply, ex)
        else:
            if not reply.done():
                reply.set_result(answer)


def _fail(reply: Reply, error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
