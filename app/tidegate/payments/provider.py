"""The port of a payment provider, and what must be true of one; called by the payments resource."""

from typing import Protocol

import msgspec


class Charge(msgspec.Struct, frozen=True):
    """Money that was taken: the provider's own `id` of it, `amount` in minor units."""

    id: str
    amount: int
    currency: str


class PaymentProvider(Protocol):
    """Takes money once per `effect_id`, if asked as it must be.

    `find` is authoritative, and a provider refuses a `charge` whose `fencing` is lower than one that it was asked with before for the same
    `effect_id`, or else it answers a repeated `effect_id` with its first charge. Most do the second, by an idempotency key of their own.
    `charge` and `find` raise `ProviderUnavailableError` when the outcome is unknown.
    """

    async def charge(self, amount: int, currency: str, *, effect_id: str, fencing: int) -> Charge:
        """Take `amount` minor units.

        Raises:
            ChargeDeclinedError: Nothing was taken, and nothing will be.
        """

    async def find(self, *, effect_id: str, fencing: int) -> Charge | None:
        """The charge with this `effect_id`; None if there is none, and none with a lower `fencing` will be."""

    async def close(self) -> None:
        """Release the connections."""
