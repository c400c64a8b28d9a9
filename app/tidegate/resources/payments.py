"""A tenant's payments through a payment provider: the reference of a mutation with an effect outside; wired by `application.py`."""

from typing import Annotated, Literal

import msgspec
from falcon import HTTP_201
from falcon.asgi import Request, Response

from tidegate.idempotency.effect import EffectId
from tidegate.idempotency.journal import TOMBSTONE_SECONDS
from tidegate.identity.principal import Principal
from tidegate.payments.errors import ChargeDeclinedError, ProviderUnavailableError
from tidegate.payments.provider import Charge, PaymentProvider
from tidegate.resources.content import read_struct
from tidegate.resources.errors import PaymentDeclinedError
from tidegate.resources.stored import answer_stored
from tidegate.resources.tenancy import tenant_key
from tidegate.store.base import ConsistentStore

SCOPE = "payments"


class PaymentOrder(msgspec.Struct, frozen=True):
    """Body of a payment; `amount` in minor units."""

    amount: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
    currency: Literal["EUR"] = "EUR"


class Payments:
    """`POST /v1/payments`: has the provider take money, once per idempotency key, whatever crashes in between."""

    scopes = {"POST": SCOPE}
    tombstone_seconds = TOMBSTONE_SECONDS

    def __init__(self, provider: PaymentProvider) -> None:
        self._provider = provider

    async def on_post(self, req: Request, resp: Response) -> None:
        """Charge, keep the payment and answer it."""
        order, principal = read_struct(req, PaymentOrder), req.context.principal
        charge: Charge = await req.context.effect.carry_out(
            lambda effect: self._charge(order, effect),
            lambda effect: self._find(order, effect),
        )
        req.context.unit_of_work.write(_key(principal, charge.id), msgspec.json.encode(charge))
        resp.media, resp.status = msgspec.to_builtins(charge), HTTP_201
        resp.location = f"/v1/payments/{charge.id}"

    async def _find(self, order: PaymentOrder, effect: EffectId) -> Charge | None:
        charge = await self._provider.find(effect_id=effect.id, fencing=effect.fencing)
        if charge is not None and (charge.amount, charge.currency) != (order.amount, order.currency):
            raise ProviderUnavailableError("the payment provider knows another charge than was asked for")
        return charge

    async def _charge(self, order: PaymentOrder, effect: EffectId) -> Charge:
        try:
            return await self._provider.charge(order.amount, order.currency, effect_id=effect.id, fencing=effect.fencing)
        except ChargeDeclinedError as ex:
            raise PaymentDeclinedError(str(ex)) from ex


class PaymentEntry:
    """`GET /v1/payments/{payment_id}`: one payment."""

    scopes = {"GET": SCOPE}

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store

    async def on_get(self, req: Request, resp: Response, payment_id: str) -> None:
        """Answer the payment as it was made."""
        await answer_stored(resp, self._store, _key(req.context.principal, payment_id), "payment")
        resp.cache_control = ("private", "no-store")


def _key(principal: Principal, payment_id: str) -> str:
    return tenant_key(principal, "payment", payment_id)
