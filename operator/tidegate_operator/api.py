"""The RateLimitTiers of a namespace: list and status patch; called by the reconciler in kube mode.

A status changes when workers report, not only when an object's event comes, so it is written outside of kopf's handlers.
It needs `list` on ratelimittiers and `patch` on ratelimittiers/status.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from tidegate.contract.codec import TierDocument
from tidegate.contract.tier import Lane
from tidegate_operator.desired import DesiredTier, Listing, desired_tier
from tidegate_operator.errors import ReportError, SourceUnavailableError
from tidegate_operator.kubernetes_api import ApiError, KubernetesApi
from tidegate_operator.status import newly_superseded

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

GROUP, VERSION, PLURAL = "tidegate.dev", "v1alpha1", "ratelimittiers"
PAGE = 500


class TierApi:
    """The RateLimitTiers of one namespace.

    Args:
        kubernetes: The API of that namespace.
        lane_address: Where the dedicated lane of a tier is; None: the operator makes none.
    """

    def __init__(self, kubernetes: KubernetesApi, lane_address: Callable[[TierDocument], str] | None = None) -> None:
        self._kubernetes = kubernetes
        self._lane_address = lane_address

    async def list(self) -> Listing:
        """All tiers that are not being deleted.

        Raises:
            SourceUnavailableError: The API server failed or refused.
        """
        tiers: dict[str, DesiredTier] = {}
        query = {"limit": str(PAGE)}
        while True:
            try:
                page = await self._kubernetes.list(f"{GROUP}/{VERSION}", PLURAL, query)
                wanted = [self.read(body) for body in page["items"] if "deletionTimestamp" not in body["metadata"]]
                token = page["metadata"].get("continue")
            except ApiError as ex:
                raise SourceUnavailableError(str(ex)) from ex
            except (KeyError, TypeError, AttributeError) as ex:
                raise SourceUnavailableError(f"GET {PLURAL}: the answer is no list of tiers") from ex
            tiers |= {tier.name: tier for tier in wanted}
            if not token:
                return Listing(tiers, is_complete=True)
            query["continue"] = token

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        """Write a tier's whole status; an object that is gone meanwhile is no error.

        Raises:
            ReportError: The API server failed or refused, or another object has the name by now.
        """
        # A uid that is only sent along is overlooked where a status is written, so the server is told to look at it.
        own = {"op": "test", "path": "/metadata/uid", "value": tier.uid}
        try:
            await self._kubernetes.patch(
                f"{GROUP}/{VERSION}", f"{PLURAL}/{tier.name}/status", [own, {"op": "add", "path": "/status", "value": status}]
            )
        except ApiError as ex:
            if ex.status != 404:
                raise ReportError(str(ex)) from ex
        if trouble := newly_superseded(tier, status):
            log.warning("tier not enforced, a newer generation is kept", tier=tier.name, cause=trouble)

    def read(self, body: Mapping[str, Any]) -> DesiredTier:
        """What a RateLimitTier, as the API server sends it, wants."""
        tier = _read_object(body)
        document = tier.document
        if document is None or document.tier.cache.lane is not Lane.DEDICATED or self._lane_address is None:
            return tier
        return replace(tier, document=replace(document, lane=self._lane_address(document)))


def _read_object(body: Mapping[str, Any]) -> DesiredTier:
    metadata = body["metadata"]
    status, created = body.get("status") or {}, metadata["creationTimestamp"]
    tier = desired_tier(metadata["name"], metadata["uid"], metadata["generation"], body.get("spec"), status=status, created=created)
    if "deletionTimestamp" in metadata:
        tier = replace(tier, held_by=tuple(metadata.get("finalizers", ())))
    # A number on every API server that keeps its objects in etcd; elsewhere two objects of one second are not ordered.
    version = metadata.get("resourceVersion", "")
    return replace(tier, resource_version=int(version)) if version.isdecimal() else tier
