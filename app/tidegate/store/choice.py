"""The adapter of the consistent store that a URL names; called by `application.py` and `tidegate.mutations`."""

from tidegate.connections.connect import connect
from tidegate.connections.etcd import EtcdServers, StoreUrl
from tidegate.store.base import ConsistentStore
from tidegate.store.etcd import EtcdStore
from tidegate.store.redis import RedisStore


def open_store(url: StoreUrl, *, timeout_seconds: float) -> ConsistentStore:
    """The store at `url`, whose every call ends within `timeout_seconds`."""
    if url.is_etcd:
        return EtcdStore(EtcdServers.read(url), timeout_seconds=timeout_seconds)
    return RedisStore(connect(url, timeout_seconds=timeout_seconds))
