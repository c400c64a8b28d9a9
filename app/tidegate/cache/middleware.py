"""Answers GET routes that opt in from the lane of the caller's tier, and 304 wherever there is an ETag; placed by `application.py`."""

import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import unquote, urlsplit

import falcon
import structlog
from falcon.asgi import Request, Response

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError, NotCachedError
from tidegate.cache.freshness import OF_ONE_EXCHANGE, Wish, jittered, outward, terms_of
from tidegate.cache.lane import Lane, Place
from tidegate.cache.lanes import Lanes
from tidegate.cache.measures import CacheMeasures
from tidegate.cache.policy import CachePolicy
from tidegate.cache.reuse import FAILED, Asked, Reuse
from tidegate.cache.single_flight import Origin
from tidegate.cache.status import CacheStatus
from tidegate.contract.tier import Lane as LaneKind
from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal
from tidegate.routing import SAFE_METHODS

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

READS = ("GET", "HEAD")
ON_304 = frozenset({"age", "cache-control", "cache-status", "cdn-cache-control", "content-location", "etag", "expires", "vary"})
"""Fields of an answer that go with a 304 (RFC 9110, 15.4.5); those of every answer are set after this step."""

Responder = Callable[..., Awaitable[None]]
Render = Callable[[Exception, Request, Response], None]


class CacheMiddleware:
    """The step after limits and queue, so that an answer from a lane is charged like any other and its RateLimit fields are fresh (RL-9).

    Args:
        lanes: Finds the lane of a tier.
        routes: The responders of routes whose resource is `cached`, by URI template and method.
        render: Puts an error into a response, as the error handler of the application does.
        measures: Where outcomes are counted.
    """

    def __init__(self, lanes: Lanes, routes: Mapping[tuple[str, str], Responder], render: Render, measures: CacheMeasures) -> None:
        self._lanes = lanes
        self._routes = routes
        self._render = render
        self._outcomes = measures.outcomes
        self._reuse = Reuse()

    async def process_shutdown(self, scope: object, event: object) -> None:
        """Let what is being refreshed come to its end."""
        await self._reuse.close()

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        """Answer from the lane, or with what the handler says, which may be kept.

        Raises:
            NotCachedError: The client wants a kept answer alone.
        """
        responder = self._routes.get((req.uri_template or "", req.method))
        if resp.complete or responder is None:
            return
        wish, lane = Wish.read(req.get_header("Cache-Control")), self._lanes.of(req.context.tier)
        status = req.context.cache_status = CacheStatus(lane.kind if lane else LaneKind.NONE, "bypass", detail="" if lane else "no-lane")
        if lane and wish.no_store and not wish.only_if_cached:
            status.forwarded = "request"
        elif lane:
            asked = self._asked(req, resp, params, responder, _policy(resource), lane, wish, status)
            try:
                entry = await self._reuse.answer(asked)
            except LaneUnavailableError as ex:
                status.forwarded, status.detail = "bypass", ex.detail
            else:
                _conclude(resp, status, entry)
                resp.complete = entry is not None or not wish.only_if_cached
        if wish.only_if_cached and not resp.complete:
            raise NotCachedError("the lane has no answer that may be served")

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Say what the lane did, tell caches beyond us what is theirs, answer If-None-Match, and invalidate what a mutation changed."""
        if status := getattr(req.context, "cache_status", None):
            # What comes from a lane was completed before it was kept.
            if resp.status_code == 200 and status.forwarded:
                await _complete_fields(resp, _policy(resource))
            resp.set_header("Cache-Status", status.text(resp.status_code))
            self._outcomes[status.lane, status.outcome] += 1
        principal: Principal | None = getattr(req.context, "principal", None)
        if req.method in READS:
            if principal and "public" not in (resp.get_header("Cache-Control") or ""):
                resp.set_header("CDN-Cache-Control", "no-store")
            _answer_conditional(req, resp)
        elif principal and req.method not in SAFE_METHODS and resp.status_code < 400 and self._routes:
            await self._invalidate(req, resp, principal)

    def _asked(
        self,
        req: Request,
        resp: Response,
        params: dict[str, Any],
        responder: Responder,
        policy: CachePolicy,
        lane: Lane,
        wish: Wish,
        status: CacheStatus,
    ) -> Asked:
        def is_failure(error: Exception) -> bool:
            if isinstance(error, falcon.HTTPStatus):
                return False
            self._render(error, req, draft := type(resp)(options=resp.options))
            return draft.status_code >= 500

        def background() -> Awaitable[Entry | str]:
            return _origin(req, type(resp)(options=resp.options), params, responder, policy)()

        origin = _origin(req, resp, params, responder, policy)
        return Asked(lane, _place(lane, req, policy), wish, origin, background, is_failure, status)

    async def _invalidate(self, req: Request, resp: Response, principal: Principal) -> None:
        lane = self._lanes.of(req.context.tier)
        if lane is None:
            return
        targets = [resp.get_header(name) for name in ("Location", "Content-Location")]
        paths = {req.path, *(path for target in targets if target and (path := _path_here(target, req)))}
        try:
            await lane.forget(*(lane.key(_tenant(principal), path) for path in paths))
        except LaneUnavailableError as ex:
            # The change is made and its answer owed. What is kept stays for its lifetime at most.
            log.warning("what a mutation changed was not invalidated", request_id=req.context.request_id, reason=str(ex))


def _policy(resource: object) -> CachePolicy:
    policy: CachePolicy = resource.cached  # type: ignore[attr-defined]  # or its route would not be among `routes`
    return policy


def _place(lane: Lane, req: Request, policy: CachePolicy) -> Place:
    principal: Principal = req.context.principal
    scopes = principal.scopes if policy.scopes is None else principal.scopes & policy.scopes
    fields = [req.get_header(name) for name in policy.vary]
    tier = req.context.tier.name
    return lane.place(_tenant(principal), req.path, tier, sorted(scopes), req.uri_template, req.query_string, fields, policy.version)


def _tenant(principal: Principal) -> str:
    return principal.partition(PartitionBy.TENANT)


def _path_here(target: str, req: Request) -> str:
    url = urlsplit(target)
    return unquote(url.path) if url.path.startswith("/") and url.netloc in ("", req.netloc) else ""


def _origin(req: Request, resp: Response, params: dict[str, Any], responder: Responder, policy: CachePolicy) -> Origin:
    async def ask() -> Entry | str:
        started = time.perf_counter()
        await responder(req, resp, **params)
        cost_seconds = time.perf_counter() - started
        if resp.status_code >= 500:
            return FAILED
        if resp.stream is not None or resp.sse is not None:
            return "streamed"
        body, now = await resp.render_body() or b"", time.time()
        # Falcon shows cookies nowhere else.
        names = {name.decode(): value.decode("latin-1") for name, value in resp._asgi_headers()}
        terms = terms_of(resp.status_code, names, len(body), cache=req.context.tier.cache, policy=policy, now=now)
        if isinstance(terms, str):
            return terms
        await _complete_fields(resp, policy)
        headers = {name: value for name, value in resp.headers.items() if name not in OF_ONE_EXCHANGE}
        made_at, fresh_seconds = now - terms.initial_age, jittered(terms.fresh_seconds)
        return Entry(headers, body, made_at, fresh_seconds, terms.stale_seconds, terms.error_seconds, cost_seconds)

    return ask


async def _complete_fields(resp: Response, policy: CachePolicy) -> None:
    """What an answer of a cached route has whether it comes from a lane or not; a second time it changes nothing."""
    if resp.get_header("ETag") is None and resp.stream is None and resp.sse is None:
        resp.etag = sha256(await resp.render_body() or b"").hexdigest()[:32]
    varies = {name.strip().lower() for name in (resp.get_header("Vary") or "").split(",")}
    for name in policy.vary:
        if name.lower() not in varies:
            resp.append_header("Vary", name)
    resp.set_headers(outward(resp.headers))


def _conclude(resp: Response, status: CacheStatus, entry: Entry | None) -> None:
    """Put the entry into the response; without one it is the handler's, if that was asked."""
    if entry is None:
        return
    if status.detail:
        # What the handler had begun to answer before it failed.
        type(resp).__init__(resp, options=resp.options)
    resp.set_headers(dict(entry.headers))
    resp.set_header("Age", str(entry.age(time.time())))
    resp.data = entry.body


def _answer_conditional(req: Request, resp: Response) -> None:
    field = resp.get_header("ETag")
    if field is None or resp.status_code != 200 or req.get_header("If-None-Match") is None:
        return
    own = falcon.ETag.loads(field)
    # As text they compare weakly.
    if any(etag in ("*", own) for etag in req.if_none_match or ()):
        for name in resp.headers.keys() - ON_304:
            resp.delete_header(name)
        resp.status, resp.data, resp.text, resp.media, resp.stream = falcon.HTTP_304, None, None, None, None
