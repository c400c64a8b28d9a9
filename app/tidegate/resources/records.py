"""A tenant's JSON records by id; wired by `application.py`."""

import hashlib
import re

from falcon import HTTP_200, HTTP_201, HTTP_204, ETag
from falcon.asgi import Request, Response

from tidegate.body import BodyTooLargeError
from tidegate.identity.principal import Principal
from tidegate.resources.content import read_object
from tidegate.resources.errors import PreconditionFailedError, RecordNotFoundError
from tidegate.resources.tenancy import tenant_key
from tidegate.store.base import ConsistentStore

MAXIMUM_BYTES = 65_536
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Records:
    """`GET`, `PUT` and `DELETE` of `/v1/records/{record_id}`; a record is kept byte for byte as it was put.

    `If-Match` holds a change to the record that the client has seen.
    """

    def __init__(self, store: ConsistentStore) -> None:
        self._store = store

    def prefetch(self, req: Request, record_id: str) -> tuple[str, ...]:
        """The record, which every change of it reads."""
        return (tenant_key(req.context.principal, "record", record_id),) if ID.fullmatch(record_id) else ()

    async def on_get(self, req: Request, resp: Response, record_id: str) -> None:
        """Answer the record."""
        key = _key(req.context.principal, record_id)
        found = (await self._store.read([key], or_stale=True)).get(key)
        if found is None:
            raise RecordNotFoundError("no such record")
        resp.data, resp.content_type, resp.etag = found.value, "application/json", _etag(found.value)
        resp.cache_control = ("private", "no-store")

    async def on_put(self, req: Request, resp: Response, record_id: str) -> None:
        """Keep the body, a JSON object: 201 if it is new, 200 if it replaces another."""
        key, unit, body = _key(req.context.principal, record_id), req.context.unit_of_work, req.context.body
        read_object(req)
        if len(body) > MAXIMUM_BYTES:
            raise BodyTooLargeError(f"a record may have at most {MAXIMUM_BYTES} bytes")
        held = await unit.read(key)
        _check_precondition(req, held)
        resp.status = HTTP_201 if held is None else HTTP_200
        unit.write(key, body)
        resp.media, resp.etag = {"id": record_id}, _etag(body)

    async def on_delete(self, req: Request, resp: Response, record_id: str) -> None:
        """Forget the record."""
        key, unit = _key(req.context.principal, record_id), req.context.unit_of_work
        held = await unit.read(key)
        _check_precondition(req, held)
        if held is None:
            raise RecordNotFoundError("no such record")
        unit.delete(key)
        resp.status = HTTP_204


def _key(principal: Principal, record_id: str) -> str:
    if not ID.fullmatch(record_id):
        raise RecordNotFoundError("no such record")
    return tenant_key(principal, "record", record_id)


def _check_precondition(req: Request, held: bytes | None) -> None:
    # Here, so after the look-up: a retry of a change that was made is replayed although the record is another one now (CACHE-4).
    if req.get_header("If-Match") is None:
        return
    wanted = req.if_match or []
    if held is None or not ("*" in wanted or any(isinstance(tag, ETag) and tag.strong_compare(ETag(_etag(held))) for tag in wanted)):
        raise PreconditionFailedError("the record is not the one that If-Match names")


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]
