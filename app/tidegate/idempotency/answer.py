"""Makes a result of what a handler answers, and an answer of a result; called by `transaction.py`."""

from collections.abc import Mapping

from falcon.asgi import Response

from tidegate.idempotency.errors import KeyExpiredError, KeyReusedError, MutationInProgressError, ResultTooLargeError
from tidegate.idempotency.journal import Found
from tidegate.idempotency.mutation import Mutation
from tidegate.idempotency.record import Claim, Result, Tombstone, stored_headers

EMPTY: Mapping[str, str] = {}


async def result_of(draft: Response, fingerprint: bytes, uri_template: str, *, maximum_bytes: int) -> Result:
    """What is stored of the response `draft` to the request of that fingerprint.

    Raises:
        TypeError: It streams or sets a cookie, which no replay could.
        ResultTooLargeError: Its body has more than `maximum_bytes`.
    """
    if draft.stream is not None or draft.sse is not None:
        raise TypeError(f"{uri_template}: a mutation cannot stream its answer, it would not be stored")
    if draft._cookies:
        raise TypeError(f"{uri_template}: a mutation cannot set a cookie, a replay would not")
    body = await draft.render_body() or b""
    if len(body) > maximum_bytes:
        raise ResultTooLargeError(f"{uri_template}: an answer of {len(body)} bytes, at most {maximum_bytes} are stored")
    return Result(fingerprint=fingerprint, status=draft.status_code, headers=stored_headers(draft.headers), body=body)


def settle(found: Found, mutation: Mutation, resp: Response) -> bool:
    """Answer with what is known of the mutation, if that is the end of it; false: it is not.

    Raises:
        KeyReusedError: The key belongs to another request.
        KeyExpiredError: Its result is kept no longer.
        MutationInProgressError: It is being carried out elsewhere.
    """
    record = found.record
    if record is not None and record.fingerprint != mutation.fingerprint:
        raise KeyReusedError("this Idempotency-Key belongs to another request; use a new key for a new request")
    match record:
        case Result():
            put(record, resp)
            resp.set_header("Idempotent-Replayed", "true")
        case Tombstone():
            raise KeyExpiredError("this request was done, and its result is kept no longer; use a new key for a new request")
        case Claim() if found.is_live:
            raise MutationInProgressError("this request is being carried out; retry with the same key for its result")
        case _:
            return False
    return True


def put(result: Result, resp: Response, of_one_response: Mapping[str, str] = EMPTY) -> None:
    """Answer with a result: a first answer too, so that a replay differs from it in its marker and in `of_one_response` alone."""
    resp.status = result.status
    resp.set_headers({**of_one_response, **result.headers, "cache-control": "no-store"})
    resp.data = result.body
    resp.complete = True
