"""Makes the adapter of the consistent store that a URL asks for; called by `application.py` and `commands/adopt_store.py`."""

from tidegate.connections.connect import connect
from tidegate.connections.etcd import EtcdServers, StoreUrl
from tidegate.store.base import ConsistentStore
from tidegate.store.redis import RedisStore


def open_store(url: StoreUrl, *, timeout_seconds: float) -> ConsistentStore:
    """An adapter that has connected nowhere yet."""
    if url.is_etcd:
        from tidegate.store.etcd import EtcdStore  # here: aiohttp is 8 MB of a worker, and a store on Redis needs none of it

        return EtcdStore(EtcdServers.read(url), timeout_seconds=timeout_seconds)
    return RedisStore(connect(url, timeout_seconds=timeout_seconds))
