"""Makes the client of a Redis; called by the wiring of the API and by the operator's publisher."""

from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from tidegate.connections.cluster import Cluster
from tidegate.connections.url import Address, RegionUrl, SeveralServers

RegionalRedis: TypeAlias = Redis | Cluster
"""What both can do is enough for a region: scripts and subscriptions."""
MOST_CONNECTIONS = 64
"""To each server, a client; more calls at a time wait for one, up to the timeout."""


def connect(url: str, *, timeout_seconds: float) -> Redis:
    """A client of one server; nothing is sent before the first call, and nothing twice."""
    return Redis.from_pool(BlockingConnectionPool.from_url(url, **_blocking(timeout_seconds)))


def connect_region(url: RegionUrl, *, timeout_seconds: float) -> RegionalRedis:
    """A client of a region's Redis, whatever its form; nothing is sent before the first call, and nothing twice."""
    if not url.startswith(("redis+", "rediss+")):
        return connect(url, timeout_seconds=timeout_seconds)
    servers = SeveralServers.read(url)
    if servers.kind == "sentinel":
        return _follow_sentinels(servers, timeout_seconds)
    options = {**_blocking(timeout_seconds), **servers.options}
    connection_class = SSLConnection if options.pop("ssl", False) else Connection

    def node(address: Address) -> Redis:
        own = options | {"connection_class": connection_class, "host": address.host, "port": address.port}
        return Redis.from_pool(BlockingConnectionPool(**own))

    return Cluster(servers.members, node)


class _SentinelPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels with those to the primary, which redis-py leaves to somebody who has no hold of them."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def _follow_sentinels(servers: SeveralServers, timeout_seconds: float) -> Redis:
    # Each new connection asks the Sentinels for the primary; the first that does not answer is asked last from then on.
    to_sentinels = {**_safe(timeout_seconds), **servers.sentinel_options}
    sentinels = Sentinel(servers.members, sentinel_kwargs=to_sentinels)  # type: ignore[no-untyped-call]
    own = {"max_connections": MOST_CONNECTIONS, **_safe(timeout_seconds), **servers.options}
    client: Redis = sentinels.master_for(servers.service, connection_pool_class=_SentinelPool, **own)
    return client


def _blocking(timeout_seconds: float) -> dict[str, Any]:
    return {"max_connections": MOST_CONNECTIONS, "timeout": timeout_seconds, **_safe(timeout_seconds)}


def _safe(timeout_seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        # No automatic retries: a script that is sent again charges twice (W11).
        "retry": Retry(NoBackoff(), 0),
        # Nothing that a user of few commands may not say.
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
