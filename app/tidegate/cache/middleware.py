"""Answers GET routes that opt in from the lane of the caller's tier, and invalidates what mutations change; placed by `application.py`."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import falcon
import structlog
from falcon.asgi import Request, Response

from tidegate.cache.entry import Entry
from tidegate.cache.errors import LaneUnavailableError, NotCachedError
from tidegate.cache.freshness import Wish, is_public
from tidegate.cache.handler import HandlerCall, Responder, complete_fields
from tidegate.cache.lane import Lane, Place
from tidegate.cache.lanes import Lanes
from tidegate.cache.measures import CacheMeasures
from tidegate.cache.policy import CachePolicy
from tidegate.cache.reuse import Asked, Reuse
from tidegate.cache.status import CacheStatus
from tidegate.cache.target import path_of
from tidegate.contract.tier import Lane as LaneKind
from tidegate.contract.tier import PartitionBy
from tidegate.identity.principal import Principal
from tidegate.routing import SAFE_METHODS

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

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
        """Give up what is being refreshed."""
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
            call = HandlerCall(req, params, responder, _policy(resource))
            try:
                entry = await self._reuse.answer(self._asked(call, resp, lane, wish, status))
            except LaneUnavailableError as ex:
                status.forwarded, status.detail = "bypass", ex.detail
            else:
                _conclude(resp, status, entry)
                resp.complete = entry is not None or not wish.only_if_cached
        if wish.only_if_cached and not resp.complete:
            status.forwarded, status.detail = "", status.detail or "not-cached"
            raise NotCachedError("the lane has no answer that may be served")

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Say what the lane did, tell caches beyond us what is theirs, and invalidate what a mutation changed."""
        if status := getattr(req.context, "cache_status", None):
            # What comes from a lane was completed before it was kept.
            if resp.status_code == 200 and status.ttl is None and not status.is_collapsed:
                await complete_fields(resp, _policy(resource))
            resp.set_header("Cache-Status", status.text(resp.status_code))
            self._outcomes[status.lane, status.outcome] += 1
        principal: Principal | None = getattr(req.context, "principal", None)
        if principal is None:
            return
        if req.method in ("GET", "HEAD") and not is_public(resp.get_header("Cache-Control")):
            resp.set_header("CDN-Cache-Control", "no-store")
        if req.method not in SAFE_METHODS and resp.status_code < 400 and self._routes:
            await self._invalidate(req, resp, principal)

    def _asked(self, call: HandlerCall, resp: Response, lane: Lane, wish: Wish, status: CacheStatus) -> Asked:
        def draft() -> Response:
            return type(resp)(options=resp.options)

        def is_failure(error: Exception) -> bool:
            if isinstance(error, falcon.HTTPStatus):
                return False
            self._render(error, call.req, rendered := draft())
            return rendered.status_code >= 500

        place = _place(lane, call.req, call.policy)
        cache = call.req.context.tier.cache
        return Asked(lane, place, cache, wish, lambda: call.answer(resp), lambda: call.answer(draft()), is_failure, status)

    async def _invalidate(self, req: Request, resp: Response, principal: Principal) -> None:
        lane = self._lanes.of(req.context.tier)
        if lane is None:
            return
        references = [resp.get_header(name) or "" for name in ("Location", "Content-Location")]
        named = {path_of(reference, path=req.path, host=req.netloc) for reference in references}
        tenant = principal.partition(PartitionBy.TENANT)
        try:
            await lane.forget(*(lane.key(tenant, path) for path in {req.path, *named} if path))
        except LaneUnavailableError as ex:
            # The change is made and its answer owed. What is kept stays for its lifetime at most.
            log.warning("what a mutation changed was not invalidated", request_id=req.context.request_id, reason=str(ex))


def _policy(resource: object) -> CachePolicy:
    policy: CachePolicy = resource.cached  # type: ignore[attr-defined]  # or its route would not be among `routes`
    return policy


def _place(lane: Lane, req: Request, policy: CachePolicy) -> Place:
    principal: Principal = req.context.principal
    scopes = principal.scopes if policy.scopes is None else principal.scopes & policy.scopes
    caller = (req.context.tier.name, sorted(scopes))
    # The name of the host too: a handler that makes links of it would have one client choose those of another.
    target = (req.uri_template, req.netloc.lower(), req.query_string)
    fields = [req.get_header(name) for name in policy.vary]
    return lane.place(principal.partition(PartitionBy.TENANT), req.path, caller, target, fields, policy.version)


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
