"""Replays finished mutations and runs new ones as one transaction with their result; placed by `application.py`."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import falcon
from falcon.asgi import Request, Response

from tidegate.idempotency.errors import DeterminateError, KeyReusedError, MutationConflictError
from tidegate.idempotency.fingerprint import fingerprint
from tidegate.idempotency.key import parse_key, storage_key
from tidegate.idempotency.record import Record, stored_headers
from tidegate.idempotency.unit_of_work import UnitOfWork
from tidegate.store.base import Conflict, ConsistentStore, Write

ATTEMPTS = 24
"""Runs of a handler before it is given up: twenty writers of one balance all land, with room to spare."""
LONGEST_PAUSE_SECONDS = 0.1
RETENTION_MARGIN_SECONDS = 3_600
"""Kept this much longer than promised: a step of the store's clock drops no result early (IDEM-17)."""

TRANSIENT = frozenset({408, 425, 429})
"""Refusals that ask for the same request again, and so must not be all that it ever gets."""

Responder = Callable[..., Awaitable[None]]
Render = Callable[[Exception, Request, Response], None]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A request that changes something: where its result is stored, what it asks and which method of the resource answers it."""

    record_key: str
    fingerprint: bytes
    responder: Responder


class ReplayMiddleware:
    """Answers a repeated mutation with its stored result; runs before the limits, so that a replay costs no quota (PIPE-3).

    Args:
        store: Where results are.
        key: Secret of the storage keys; the same in all regions.
        mutations: The responder of each mutation, by URI template and method; whatever is not in it changes nothing.
    """

    def __init__(self, store: ConsistentStore, key: bytes, mutations: Mapping[tuple[str, str], Responder]) -> None:
        self._store = store
        self._key = key
        self._mutations = mutations

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Look the mutation up and leave it on `req.context.mutation`; None for a request that changes nothing.

        Raises:
            KeyMissingError: A mutation needs a key.
            KeyInvalidError: Its form is wrong.
            KeyReusedError: The key was used for another request.
            StoreUnavailableError: Nobody knows whether it was done.
        """
        responder = self._mutations.get((req.uri_template or "", req.method))
        req.context.mutation = None
        if resp.complete or responder is None:
            return
        lines = [value.decode("latin-1") for name, value in req.scope["headers"] if name == b"idempotency-key"]
        record_key = storage_key(self._key, req.context.principal, parse_key(lines))
        mutation = Mutation(record_key, _fingerprint(req), responder)
        if not await _replay(self._store, mutation, resp):
            req.context.mutation = mutation


class TransactionMiddleware:
    """Runs a mutation's handler and commits its writes and its result at once; the last middleware.

    A handler must have no effect but its unit of work: it runs again when what it read has changed.

    Args:
        store: Where results and data are.
        render: Puts a refusal into a response, as the error handler of the application does.
    """

    def __init__(self, store: ConsistentStore, render: Render) -> None:
        self._store = store
        self._render = render

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Answer the mutation on `req.context.mutation`.

        Raises:
            KeyReusedError: Another request with this key was quicker.
            MutationConflictError: The data changed under every attempt.
            StoreUnavailableError: The outcome is unknown; a retry finds out.
        """
        mutation: Mutation | None = req.context.mutation
        if resp.complete or mutation is None:
            return
        for attempt in range(ATTEMPTS):
            if await self._answer(mutation, req, resp, params):
                return
            await asyncio.sleep(_pause_seconds(attempt))
        raise MutationConflictError(f"the data changed during each of {ATTEMPTS} attempts")

    async def _answer(self, mutation: Mutation, req: Request, resp: Response, params: dict[str, Any]) -> bool:
        unit = req.context.unit_of_work = UnitOfWork(self._store)
        draft = type(resp)(options=resp.options)
        record = await self._run(mutation, unit, req, draft, params)
        # A failure of ours or a transient refusal says nothing about the next attempt: it is answered and forgotten (IDEM-10).
        if record.status < 500 and record.status not in TRANSIENT:
            retention_seconds = req.context.tier.retention_seconds + RETENTION_MARGIN_SECONDS
            result = await unit.commit(Write(mutation.record_key, record.encode(), retention_seconds))
            if isinstance(result, Conflict):
                return mutation.record_key in result.keys and await _replay(self._store, mutation, resp)
        resp.set_headers(draft.headers)
        _put(record, resp)
        return True

    async def _run(self, mutation: Mutation, unit: UnitOfWork, req: Request, draft: Response, params: dict[str, Any]) -> Record:
        try:
            await mutation.responder(req, draft, **params)
        except falcon.HTTPStatus as ex:
            draft.status, draft.text = ex.status, ex.text
            draft.set_headers(ex.headers or {})
        except (DeterminateError, falcon.HTTPError) as ex:
            unit.discard_writes()
            self._render(ex, req, draft)
        if draft.stream is not None or draft.sse is not None:
            raise TypeError(f"{req.uri_template}: a mutation cannot stream its answer, it would not be stored")
        body = await draft.render_body() or b""
        return Record(fingerprint=mutation.fingerprint, status=draft.status_code, headers=stored_headers(draft.headers), body=body)


def _fingerprint(req: Request) -> bytes:
    content_type = req.content_type or ""
    return fingerprint(method=req.method, path=req.path, query=req.query_string, content_type=content_type, body=req.context.body)


async def _replay(store: ConsistentStore, mutation: Mutation, resp: Response) -> bool:
    stored = (await store.read([mutation.record_key])).get(mutation.record_key)
    if stored is None:
        return False
    record = Record.decode(stored.value)
    if record.fingerprint != mutation.fingerprint:
        raise KeyReusedError("this Idempotency-Key belongs to another request; use a new key for a new request")
    _put(record, resp)
    resp.set_header("Idempotent-Replayed", "true")
    return True


def _put(record: Record, resp: Response) -> None:
    # First answers go this way too, so that a replay differs from them in its marker and in fields of one response alone.
    resp.status = record.status
    resp.set_headers({**record.headers, "Cache-Control": "no-store"})
    resp.data = record.body
    resp.complete = True


def _pause_seconds(attempt: int) -> float:
    # Full jitter: contenders that collided once spread out.
    return random.uniform(0, min(LONGEST_PAUSE_SECONDS, 0.002 * 2**attempt))  # noqa: S311 - spreads load, hides nothing
