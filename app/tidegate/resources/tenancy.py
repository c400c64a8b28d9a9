"""Names a tenant's keys in the consistent store; called by the resources that keep data."""

import hashlib

from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal


def tenant_key(principal: Principal, *path: str) -> str:
    """The key at `path` of the principal's tenant; two tenants never share one, and none shows the tenant's name."""
    digest = hashlib.sha256(principal.partition(PartitionBy.TENANT).encode()).hexdigest()
    return "/".join(("tenant", digest, *path))
