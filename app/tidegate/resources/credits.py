"""A tenant's credits: an append-only ledger of purchases and the balance that it sums to; wired by `application.py`."""

from typing import Annotated, Literal

import msgspec
from falcon import HTTP_201
from falcon.asgi import Request, Response

from tidegate.cache.policy import CachePolicy
from tidegate.idempotency.journal import TOMBSTONE_SECONDS
from tidegate.identity.principal import Principal
from tidegate.resources.content import read_struct
from tidegate.resources.stored import answer_stored
from tidegate.resources.tenancy import tenant_key
from tidegate.store.base import ConsistentStore


class Account(msgspec.Struct, frozen=True):
    """Sum and number of a ledger's entries; `balance` in minor units (cents)."""

    balance: int = 0
    currency: str = "EUR"
    entries: int = 0

    def credited(self, amount: int) -> "Account":
        """The account after one more purchase."""
        return Account(self.balance + amount, self.currency, self.entries + 1)


class Purchase(msgspec.Struct, frozen=True):
    """A ledger entry; `id` counts from 1 inside a tenant, amounts are in minor units."""

    id: str
    amount: int
    balance: int


class PurchaseOrder(msgspec.Struct, frozen=True):
    """Body of a purchase; `amount` in minor units."""

    amount: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
    currency: Literal["EUR"] = "EUR"


class Credits:
    """`GET /v1/credits`: the tenant's balance."""

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the balance and the number of ledger entries."""
        key = _account_key(req.context.principal)
        found = (await self._store.read([key], or_stale=True)).get(key)
        resp.media = msgspec.to_builtins(_account(found.value if found else None))
        resp.cache_control = ("private", "no-store")


class Purchases:
    """`POST /v1/credits/purchases`: adds to the balance, once per idempotency key."""

    tombstone_seconds = TOMBSTONE_SECONDS

    def prefetch(self, req: Request) -> tuple[str]:
        """The account, which a purchase reads."""
        return (_account_key(req.context.principal),)

    async def on_post(self, req: Request, resp: Response) -> None:
        """Append a ledger entry and answer it."""
        order = read_struct(req, PurchaseOrder)
        unit, principal = req.context.unit_of_work, req.context.principal
        account = _account(await unit.read(_account_key(principal))).credited(order.amount)
        purchase = Purchase(str(account.entries), order.amount, account.balance)
        unit.write(_account_key(principal), msgspec.json.encode(account))
        unit.write(_purchase_key(principal, purchase.id), msgspec.json.encode(purchase))
        resp.media, resp.status = msgspec.to_builtins(purchase), HTTP_201
        resp.location = f"/v1/credits/purchases/{purchase.id}"


class PurchaseEntry:
    """`GET /v1/credits/purchases/{purchase_id}`: one ledger entry, which never changes."""

    cached = CachePolicy(scopes=frozenset())

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store

    async def on_get(self, req: Request, resp: Response, purchase_id: str) -> None:
        """Answer the entry as it was made."""
        await answer_stored(resp, self._store, _purchase_key(req.context.principal, purchase_id), "purchase")


def _account(stored: bytes | None) -> Account:
    return msgspec.json.decode(stored, type=Account) if stored else Account()


def _account_key(principal: Principal) -> str:
    return tenant_key(principal, "credits", "account")


def _purchase_key(principal: Principal, purchase_id: str) -> str:
    return tenant_key(principal, "credits", "purchase", purchase_id)
