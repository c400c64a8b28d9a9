"""Every refusal as RFC 9457 problem details: the one registry of problem types, and the only place that knows their status codes.

Called by `application.py` for raised errors and by the transaction middleware for refusals that are a mutation's result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import falcon
import msgspec
import structlog
from falcon.asgi import Request, Response

from tidegate.admission.errors import NoSeatError
from tidegate.admission.patience import retry_after_seconds
from tidegate.body import BodyIncompleteError, BodyTimeoutError, BodyTooLargeError
from tidegate.cache.errors import NotCachedError
from tidegate.contract.errors import TidegateError
from tidegate.idempotency.errors import (
    KeyExpiredError,
    KeyInvalidError,
    KeyMissingError,
    KeyReusedError,
    MutationConflictError,
    MutationInProgressError,
    OutcomeUnknownError,
)
from tidegate.identity.errors import InsufficientScopeError, InvalidTokenError, TokenMissingError
from tidegate.limits.errors import LimitStoreUnavailableError, NeverFitsError, QuotaExceededError
from tidegate.limits.fields import refusal_headers
from tidegate.payments.errors import ProviderUnavailableError
from tidegate.resources.errors import (
    InvalidContentError,
    InvalidMembersError,
    PaymentDeclinedError,
    PreconditionFailedError,
    RecordNotFoundError,
    UnsupportedContentTypeError,
)
from tidegate.store.errors import StoreUnavailableError
from tidegate.tiers.errors import TiersUnavailableError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

BASE = "https://tidegate.dev/problems/"
RATE_LIMIT_BASE = "https://iana.org/assignments/http-problem-types#"
"""Requested by draft-ietf-httpapi-ratelimit-headers, not yet registered."""

NO_STORE = {"Cache-Control": "no-store"}
CLOSE = {"Connection": "close"}
"""The rest of a body that was not read would be taken for the next request."""
MOST = 32
"""Violations that an answer names: a body full of them must not buy an answer many times its size."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of refusal.

    Args:
        type: The URI that names it; its last part is its heading in docs/problems.md.
        status: HTTP status.
        title: Short and the same every time.
        detail: Text for the client; None: the error's own text.
        headers: Fields that go with it.
        members: Further members of the problem, made from the error.
    """

    type: str
    status: int
    title: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Callable[[Any], Mapping[str, Any]] = lambda error: {}


def _retry_after(seconds: int) -> Mapping[str, str]:
    return {"Retry-After": str(seconds)}


def _challenge(error: str = "") -> Mapping[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="tidegate"{error}'}


_UNAVAILABLE = ProblemType(
    RATE_LIMIT_BASE + "temporary-reduced-capacity",
    503,
    "Capacity is reduced for the moment",
    "This region cannot decide on requests just now; retry, in any region.",
    # Tells the edge that another region may do better; when the store that all share is away, none would.
    {**_retry_after(1), "Tidegate-Unavailable": "region"},
)

REGISTRY: Mapping[type[Exception], ProblemType] = {
    TokenMissingError: ProblemType(
        BASE + "token-missing", 401, "An access token is required", "Send `Authorization: Bearer <token>` once.", _challenge()
    ),
    # One answer for every reason (SIG-10): which check failed is for the log, not for whoever forges tokens.
    InvalidTokenError: ProblemType(
        BASE + "token-invalid", 401, "The access token is not valid", "Get a fresh token.", _challenge(', error="invalid_token"')
    ),
    InsufficientScopeError: ProblemType(
        BASE + "scope-insufficient",
        403,
        "The access token does not have the scope that this needs",
        headers=_challenge(', error="insufficient_scope"'),
        members=lambda error: {"scope": error.scope},
    ),
    QuotaExceededError: ProblemType(
        RATE_LIMIT_BASE + "quota-exceeded",
        429,
        "The quota of the tier is spent",
        members=lambda error: {"violated-policies": list(error.decision.violated)},
    ),
    NeverFitsError: ProblemType(
        BASE + "limit-too-small",
        403,
        "The tier does not allow a request of this size",
        members=lambda error: {"violated-policies": list(error.windows)},
    ),
    LimitStoreUnavailableError: _UNAVAILABLE,
    TiersUnavailableError: _UNAVAILABLE,
    NoSeatError: ProblemType(
        RATE_LIMIT_BASE + "temporary-reduced-capacity",
        503,
        "Capacity is reduced for the moment",
        "More is asked of this service than it can do; retry after Retry-After.",
        # Not `region`: an edge that asked another region for each of these would carry the overload over there.
        {"Tidegate-Unavailable": "capacity"},
    ),
    StoreUnavailableError: ProblemType(
        BASE + "idempotency-unavailable",
        503,
        "The consistent store does not answer",
        "Nothing was done, or what was done is recorded: retry with the same Idempotency-Key.",
        {**_retry_after(1), "Tidegate-Unavailable": "store"},
    ),
    KeyMissingError: ProblemType(
        BASE + "idempotency-key-missing",
        400,
        "An Idempotency-Key is required",
        headers={"Link": f'<{BASE}idempotency-key-missing>; rel="describedby"'},
    ),
    KeyInvalidError: ProblemType(BASE + "idempotency-key-invalid", 400, "The Idempotency-Key is not valid"),
    KeyReusedError: ProblemType(BASE + "idempotency-key-reused", 422, "The Idempotency-Key belongs to another request"),
    KeyExpiredError: ProblemType(
        BASE + "idempotency-key-expired", 422, "The Idempotency-Key was used for a request whose result is kept no longer"
    ),
    MutationInProgressError: ProblemType(
        BASE + "idempotency-in-progress", 409, "The same request is being carried out", headers=_retry_after(1)
    ),
    OutcomeUnknownError: ProblemType(
        BASE + "idempotency-outcome-unknown", 409, "The outcome of an earlier attempt is not known yet", headers=_retry_after(5)
    ),
    MutationConflictError: ProblemType(
        BASE + "mutation-conflict", 409, "Too many mutations of the same data at once", headers=_retry_after(1)
    ),
    PreconditionFailedError: ProblemType(BASE + "precondition-failed", 412, "The resource is not in the state that the request names"),
    PaymentDeclinedError: ProblemType(BASE + "payment-declined", 402, "The payment was declined"),
    ProviderUnavailableError: ProblemType(
        BASE + "payment-outcome-unknown",
        503,
        "The payment provider does not answer",
        "Whether money was taken is not known yet: retry with the same Idempotency-Key, it is taken once.",
        {**_retry_after(1), "Tidegate-Unavailable": "provider"},
    ),
    RecordNotFoundError: ProblemType(BASE + "not-found", 404, "There is no such resource"),
    NotCachedError: ProblemType(BASE + "not-cached", 504, "There is no stored answer"),
    InvalidContentError: ProblemType(BASE + "content-invalid", 400, "The body is not valid JSON"),
    UnsupportedContentTypeError: ProblemType(
        BASE + "content-type-unsupported",
        415,
        "The content type is not supported",
        headers={"Accept": "application/json", "Accept-Encoding": "identity"},
    ),
    InvalidMembersError: ProblemType(
        BASE + "members-invalid",
        422,
        "Members of the body break rules",
        members=lambda error: {"violations": [{"path": v.path, "reason": v.reason, "message": v.message} for v in error.violations[:MOST]]},
    ),
    BodyTooLargeError: ProblemType(BASE + "body-too-large", 413, "The body is too large", headers=CLOSE),
    BodyTimeoutError: ProblemType(BASE + "body-timeout", 408, "The body came too slowly", headers=CLOSE),
    BodyIncompleteError: ProblemType(BASE + "body-incomplete", 400, "The body ended too early", headers=CLOSE),
}

_FRAMEWORK_DETAILS = {404: "Nothing is served at this path.", 405: "The field Allow lists the methods of this path."}

INTERNAL = ProblemType(BASE + "internal-error", 500, "Something went wrong on our side", "The log has the details under the request id.")


def render(error: Exception, req: Request, resp: Response) -> None:
    """Make `resp` the problem that `error` is; an error that nobody declared is logged and becomes a 500 without details."""
    if isinstance(error, falcon.HTTPError):
        _render_framework_error(error, req, resp)
        return
    problem = next((REGISTRY[kind] for kind in type(error).__mro__ if kind in REGISTRY), None)
    if problem is None:
        log.error("unhandled error", request_id=req.context.request_id, route=req.uri_template, exc_info=error)
        problem = INTERNAL
    _log_refusal(error, problem, req)
    detail = problem.detail if problem.detail is not None else str(error)
    _write(resp, req, problem.type, problem.status, problem.title, detail, dict(problem.members(error)))
    resp.set_headers({**NO_STORE, **problem.headers})
    if isinstance(error, QuotaExceededError):
        resp.set_headers(refusal_headers(error.decision))
    if isinstance(error, NoSeatError):
        resp.set_header("Retry-After", str(retry_after_seconds(error.wait_seconds)))


def install(app: falcon.asgi.App[Request, Response]) -> None:
    """Make every error of `app`, the framework's own too, a problem."""
    app.add_error_handler(Exception, _on_error)
    app.add_error_handler(falcon.HTTPError, _on_error)
    app.set_error_serializer(lambda req, resp, error: None)


async def _on_error(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    render(error, req, resp)


def _render_framework_error(error: falcon.HTTPError, req: Request, resp: Response) -> None:
    status = error.status_code
    detail = error.description or _FRAMEWORK_DETAILS.get(status)
    _write(resp, req, "about:blank", status, falcon.code_to_http_status(status).split(" ", 1)[1], detail, {})
    resp.set_headers({**NO_STORE, **dict(error.headers or {})})


def _log_refusal(error: Exception, problem: ProblemType, req: Request) -> None:
    if isinstance(error, TidegateError) and (problem.detail is not None):
        # The client was told less than we know.
        log.info("refused", request_id=req.context.request_id, type=problem.type, reason=str(error))


def _write(resp: Response, req: Request, type_: str, status: int, title: str, detail: str | None, members: dict[str, Any]) -> None:
    body = {"type": type_, "title": title, "status": status, "instance": f"urn:uuid:{req.context.request_id}", **members}
    if detail:
        body["detail"] = detail
    resp.status = falcon.code_to_http_status(status)
    resp.content_type = "application/problem+json"
    # Whatever the handler had begun to answer.
    resp.stream = resp.content_length = resp.sse = resp.media = resp.text = None
    resp.data = msgspec.json.encode(body)
