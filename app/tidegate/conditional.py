"""Answers `If-None-Match` with 304 wherever there is an ETag, from a lane or not (RFC 9110, 13.1.2); placed by `application.py`."""

import falcon
from falcon.asgi import Request, Response

ON_304 = frozenset({"age", "cache-control", "cache-status", "cdn-cache-control", "content-location", "etag", "expires", "vary"})
"""Fields of an answer that go with a 304 (RFC 9110, 15.4.5); those of every answer are set after this step."""


class ConditionalMiddleware:
    """Leaves out of an answer what its client has."""

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Make the answer a 304, if the client has it already."""
        field = resp.get_header("ETag")
        if field is None or req.method not in ("GET", "HEAD") or resp.status_code != 200 or req.get_header("If-None-Match") is None:
            return
        own = falcon.ETag.loads(field)
        # As text they compare weakly.
        if any(etag in ("*", own) for etag in req.if_none_match or ()):
            for name in resp.headers.keys() - ON_304:
                resp.delete_header(name)
            resp.status, resp.data, resp.text, resp.media, resp.stream = falcon.HTTP_304, None, None, None, None
