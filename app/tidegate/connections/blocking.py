"""Blocking clients of a region's Redis in any of its forms, for a command that looks once and ends."""

from contextlib import suppress
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from tidegate.connections.url import RegionUrl, SeveralServers


def slot_of(key: bytes) -> int:
    """Of a Redis Cluster: one command touches keys of one."""
    return key_slot(key)


class Primaries:
    """The servers that hold a region, as they are at the first question.

    Args:
        url: The region's.
        timeout_seconds: Deadline of every call.
    """

    def __init__(self, url: RegionUrl, *, timeout_seconds: float) -> None:
        self._url = url
        self._options: dict[str, Any] = {
            "socket_timeout": timeout_seconds,
            "socket_connect_timeout": timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            # Nothing that a user of few commands may not say.
            "driver_info": None,
            "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        }
        self._found: list[tuple[int, Redis]] = []

    def all(self) -> list[Redis]:
        """A client of each.

        Raises:
            RedisError: None is found.
        """
        return list({id(client): client for _, client in self._look()}.values())

    def of(self, key: str) -> Redis:
        """A client of the one that holds `key`.

        Raises:
            RedisError: None is found.
        """
        slot, found = slot_of(key.encode()), self._look()
        # Of a slot before the first that somebody holds any primary says so.
        return next((client for first, client in reversed(found) if first <= slot), found[0][1])

    def _look(self) -> list[tuple[int, Redis]]:
        if not self._found:
            self._found = self._find()
        return self._found

    def _find(self) -> list[tuple[int, Redis]]:
        options = self._options
        if not self._url.startswith(("redis+", "rediss+")):
            return [(0, Redis.from_url(self._url, **options))]
        servers = SeveralServers.read(self._url)
        if servers.kind == "sentinel":
            sentinels = Sentinel(servers.members, sentinel_kwargs={**options, **servers.sentinel_options})  # type: ignore[no-untyped-call]
            primary: Redis = sentinels.master_for(servers.service, **{**options, **servers.options})  # type: ignore[no-untyped-call]
            return [(0, primary)]
        for member in servers.members:
            with suppress(RedisError):
                node = Redis(host=member.host, port=member.port, **{**options, **servers.options})
                if found := _read(node, member.host, options, servers):
                    return found
        raise RedisError("no node of the cluster tells who holds what")


def _read(node: Redis, host: str, options: dict[str, Any], servers: SeveralServers) -> list[tuple[int, Redis]]:
    clients: dict[tuple[str, int], Redis] = {}
    found = []
    slots = node.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
    for first, _, (named, port, *_), *_ in sorted(slots):
        address = ((named or b"").decode() or host, port)
        if address not in clients:
            clients[address] = Redis(host=address[0], port=port, **{**options, **servers.options})
        found.append((first, clients[address]))
    return found
