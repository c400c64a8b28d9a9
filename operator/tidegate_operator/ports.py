"""What the reconciler needs of others: where tiers come from, where statuses go, who makes lanes; satisfied by both entry points."""

from collections.abc import Mapping
from typing import Any, Protocol

from tidegate_operator.desired import DesiredTier, Listing
from tidegate_operator.lane_state import Upkeep


class TierListing(Protocol):
    """Where the wanted tiers come from."""

    async def list(self) -> Listing:
        """All of them now. Raises SourceUnavailableError when they cannot be told."""


class StatusReport(Protocol):
    """Where a changed status goes."""

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        """Take a tier's new status. Raises ReportError to be called again."""


class LaneUpkeep(Protocol):
    """Who makes dedicated cache lanes."""

    async def keep(self, tier: DesiredTier) -> Upkeep:
        """Have a tier's lanes be as it wants them. What failed is said in the answer."""
