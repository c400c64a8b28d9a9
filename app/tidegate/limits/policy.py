"""What a tier's windows mean to a decision, worked out once per tier; called by the adapter and the middleware."""

import math
import struct
from dataclasses import dataclass

from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits.decision import Amounts
from tidegate.limits.fields import LimitField, policy_field
from tidegate.limits.record import head_of
from tidegate.limits.shape import shapes_of

CAPACITY = 1024
"""Policies held at once: a fleet has few tiers, but every edit of one makes another object."""


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A tier, ready for a decision; made by `policy_of`, one for each tier object, and equal to itself alone.

    Args:
        tier: The tier.
        size: How many windows it has.
        packed: Its windows as `decide.lua` reads them.
        sub_microseconds: Length of a sub-window of each window.
        policy_field: Text of its `RateLimit-Policy`.
        limit_field: Makes the texts of its `RateLimit`.
        counts_responses: Whether a window counts response bytes.
        least_cost_limit: Smallest limit of a window that counts cost, infinite if none does.
        least_request_bytes_limit: The same of request bytes.
    """

    tier: Tier
    size: int
    packed: bytes
    sub_microseconds: tuple[float, ...]
    policy_field: str
    limit_field: LimitField
    counts_responses: bool
    least_cost_limit: float
    least_request_bytes_limit: float

    @property
    def windows(self) -> tuple[Window, ...]:
        """The tier's windows."""
        return self.tier.windows

    def exceeded_by(self, amounts: Amounts) -> tuple[str, ...]:
        """Names of the windows whose whole limit is less than one request of `amounts`."""
        if amounts.cost <= self.least_cost_limit and amounts.request_bytes <= self.least_request_bytes_limit:
            return ()
        return tuple(window.name for window in self.windows if amounts.of(window.unit)[0] > window.limit)

    def cost(self, method: str, path_template: str) -> int:
        """Cost of a request: that of the first rule for its method and its route's path template, else 1.

        HEAD does the work of GET, so a rule for GET is one for HEAD too; one for HEAD alone may come before it.
        """
        for rule in self.tier.costs:
            if rule.path == path_template and (not rule.methods or method in rule.methods or (method == "HEAD" and "GET" in rule.methods)):
                return rule.cost
        return 1


# Keyed by the object, not its value: hashing a whole tier costs more than the decision. The policy holds the tier, so its
# id names no other object meanwhile.
_policies: dict[int, Policy] = {}


def policy_of(tier: Tier) -> Policy:
    """The policy of `tier`."""
    return _policies.get(id(tier)) or _remember(tier)


def _remember(tier: Tier) -> Policy:
    if len(_policies) >= CAPACITY:
        _policies.clear()
    limits, shapes = [window.limit for window in tier.windows], shapes_of(tier.windows)
    policy = _policies[id(tier)] = Policy(
        tier=tier,
        size=len(shapes),
        packed=head_of(shapes) + struct.pack(f"<{len(limits)}d", *limits),
        sub_microseconds=tuple(shape.sub_microseconds for shape in shapes),
        policy_field=policy_field(tier.windows),
        limit_field=LimitField(tier.windows),
        counts_responses=any(window.unit is Unit.RESPONSE_BYTES for window in tier.windows),
        least_cost_limit=_least(tier, Unit.COST),
        least_request_bytes_limit=_least(tier, Unit.REQUEST_BYTES),
    )
    return policy


def _least(tier: Tier, unit: Unit) -> float:
    return min((window.limit for window in tier.windows if window.unit is unit), default=math.inf)
