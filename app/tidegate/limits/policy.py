"""What a tier's windows mean to a decision, worked out once per tier; called by the adapter and the middleware."""

import struct
from dataclasses import dataclass

from tidegate.contract.tier import Tier, Unit, Window
from tidegate.limits.decision import Amounts
from tidegate.limits.fields import policy_field
from tidegate.limits.vector import window_id

CAPACITY = 1024
"""Policies held at once: a fleet has few tiers, but every edit of one makes another object."""

_WINDOW = struct.Struct("<IId")


@dataclass(frozen=True, slots=True)
class Policy:
    """A tier, ready for a decision; made by `policy_of`.

    Args:
        tier: The tier.
        packed: Its windows as `decide.lua` reads them.
        field: Text of its `RateLimit-Policy`.
        counts_responses: Whether a window counts response bytes.
    """

    tier: Tier
    packed: bytes
    field: str
    counts_responses: bool

    @property
    def windows(self) -> tuple[Window, ...]:
        """The tier's windows."""
        return self.tier.windows

    def cost(self, method: str, path_template: str) -> int:
        """Cost of a request: that of the first rule for its method and its route's path template, else 1."""
        for rule in self.tier.costs:
            if rule.path == path_template and (not rule.methods or method in rule.methods):
                return rule.cost
        return 1

    def pack_request(self, amounts: Amounts) -> bytes:
        """What a request asks of each window, as `decide.lua` reads it."""
        return self._pack([number for window in self.windows for number in amounts.of(window.unit)])

    def pack_response(self, response_bytes: int) -> bytes:
        """What a response charges to each window, without a check."""
        return self._pack([n for w in self.windows for n in (0, response_bytes if w.unit is Unit.RESPONSE_BYTES else 0)])

    def _pack(self, numbers: list[int]) -> bytes:
        return struct.pack(f"<{len(numbers)}d", *numbers)


# Keyed by the object, not its value: hashing a whole tier costs more than the decision. The policy holds the tier, so its
# id names no other object meanwhile.
_policies: dict[int, Policy] = {}


def policy_of(tier: Tier) -> Policy:
    """The policy of `tier`."""
    return _policies.get(id(tier)) or _remember(tier)


def _remember(tier: Tier) -> Policy:
    if len(_policies) >= CAPACITY:
        _policies.clear()
    packed = b"".join(_WINDOW.pack(window_id(window), window.period_seconds, window.limit) for window in tier.windows)
    counts_responses = any(window.unit is Unit.RESPONSE_BYTES for window in tier.windows)
    policy = _policies[id(tier)] = Policy(tier, packed, policy_field(tier.windows), counts_responses)
    return policy
