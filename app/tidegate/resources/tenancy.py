"""Names a tenant's keys in the consistent store; called by the resources that keep data."""

import hashlib
from functools import lru_cache

from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal

MEMO_TENANTS = 8192
"""Remembered by a worker: a request names several keys of its tenant."""


def tenant_key(principal: Principal, *path: str) -> str:
    """The key at `path` of the principal's tenant; two tenants never share one, and none shows the tenant's name."""
    return "/".join(("tenant", _digest(principal.partition(PartitionBy.TENANT)), *path))


@lru_cache(MEMO_TENANTS)
def _digest(partition: str) -> str:
    return hashlib.sha256(partition.encode()).hexdigest()
