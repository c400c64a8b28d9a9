"""Asks the handler of a cached route for the whole answer, and makes of it what is kept; called by `middleware.py`."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypeAlias

from falcon.asgi import Request, Response

from tidegate.cache.entry import Entry
from tidegate.cache.freshness import OF_ONE_EXCHANGE, jittered, outward, terms_of
from tidegate.cache.policy import CachePolicy
from tidegate.cache.reuse import FAILED

FOR_ONE_CLIENT = frozenset({b"if-modified-since", b"if-none-match", b"if-range", b"range"})
"""Fields that ask for less than the whole answer."""

Responder: TypeAlias = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """A call of a handler, once for its request or once more for those that come later."""

    req: Request
    params: Mapping[str, Any]
    responder: Responder
    policy: CachePolicy

    async def answer(self, resp: Response) -> Entry | str:
        """Have the handler answer with `resp`; what to keep of it, or the word why nothing is kept."""
        started = time.perf_counter()
        await self.responder(_whole(self.req), resp, **self.params)
        cost_seconds = time.perf_counter() - started
        if resp.status_code >= 500:
            return FAILED
        if resp.stream is not None or resp.sse is not None:
            return "streamed"
        # A copy, unless nobody can change it.
        body, now = bytes(await resp.render_body() or b""), time.time()
        # Falcon shows cookies nowhere else.
        names = {name.decode(): value.decode("latin-1") for name, value in resp._asgi_headers()}
        terms = terms_of(resp.status_code, names, len(body), cache=self.req.context.tier.cache, policy=self.policy, now=now)
        if isinstance(terms, str):
            return terms
        await complete_fields(resp, self.policy)
        headers = {name: value for name, value in resp.headers.items() if name not in OF_ONE_EXCHANGE}
        made_at, fresh_seconds = now - terms.initial_age, jittered(terms.fresh_seconds)
        return Entry(headers, body, made_at, fresh_seconds, terms.stale_seconds, terms.error_seconds, cost_seconds)


async def complete_fields(resp: Response, policy: CachePolicy) -> None:
    """What an answer of a cached route has whether it comes from a lane or not; a second time it changes nothing."""
    if resp.get_header("ETag") is None and resp.stream is None and resp.sse is None:
        resp.etag = sha256(await resp.render_body() or b"").hexdigest()[:32]
    varies = {name.strip().lower() for name in (resp.get_header("Vary") or "").split(",")}
    for name in policy.vary:
        if name.lower() not in varies:
            resp.append_header("Vary", name)
    resp.set_headers(outward(resp.headers))


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def _whole(req: Request) -> Request:
    """The request as one for the whole answer, which is what others get: no HEAD, no part, no condition."""
    headers = [field for field in req.scope["headers"] if field[0] not in FOR_ONE_CLIENT]
    if req.method == "GET" and len(headers) == len(req.scope["headers"]):
        return req
    whole = type(req)(req.scope | {"method": "GET", "headers": headers}, _nothing, options=req.options)
    whole.context, whole.uri_template = req.context, req.uri_template
    return whole
