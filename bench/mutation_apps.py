"""The API with a purchase that its author writes straight to the store, beside the platform's; served by `mutations.py`."""

import os
from dataclasses import dataclass

import msgspec
from falcon import HTTP_201
from falcon.asgi import Request, Response

from tidegate.application import App, create_app
from tidegate.resources.content import read_struct
from tidegate.resources.credits import Account, Purchase, PurchaseOrder
from tidegate.resources.tenancy import tenant_key
from tidegate.settings import Settings
from tidegate.store.base import ABSENT, Committed, ConsistentStore, Write
from tidegate.store.connect import open_store
from tidegate.telemetry import configure_logging

STRAIGHT = "/bench/straight"


@dataclass(frozen=True)
class Straight:
    """The same purchase without a key: read, commit, again if somebody was quicker. A retry is charged twice."""

    store: ConsistentStore

    async def on_post(self, req: Request, resp: Response) -> None:
        order, principal = read_struct(req, PurchaseOrder), req.context.principal
        key = tenant_key(principal, "credits", "account")
        while True:
            found = (await self.store.read([key])).get(key)
            account = (msgspec.json.decode(found.value, type=Account) if found else Account()).credited(order.amount)
            purchase = Purchase(str(account.entries), order.amount, account.balance)
            writes = [
                Write(key, msgspec.json.encode(account)),
                Write(tenant_key(principal, "credits", "purchase", purchase.id), msgspec.json.encode(purchase)),
            ]
            if isinstance(await self.store.commit({key: found.version if found else ABSENT}, writes), Committed):
                break
        resp.media, resp.status = msgspec.to_builtins(purchase), HTTP_201
        resp.location = f"/v1/credits/purchases/{purchase.id}"


def make_app() -> App:
    """Both, behind the same token and the same limits."""
    settings = Settings.from_environment(os.environ)
    app = create_app(settings)
    app.add_route(STRAIGHT, Straight(open_store(settings.store_url, timeout_seconds=settings.store_timeout_seconds)))
    # The one thing that the platform would not have: a mutation that needs no key.
    del app._router.mutations[STRAIGHT, "POST"]  # type: ignore[attr-defined]
    return app


configure_logging("warning")
app = make_app()
