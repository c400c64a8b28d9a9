"""Request ids, the access log and the log format; called by `application.py` first of all middleware and by `asgi.py` once at start."""

import json
import logging
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

import msgspec
import structlog
from falcon.asgi import Request, Response

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Draining:
    """Whether this process has been told to stop; one a process, as signals are."""

    def __init__(self) -> None:
        self.started = False
        self._at_end: list[Callable[[], None]] = []

    def at_end(self, call: Callable[[], None]) -> None:
        """Call that when no more connections are taken, while requests still run."""
        self._at_end.append(call)

    def end(self) -> None:
        """No more connections are taken."""
        for call in self._at_end:
            call()


draining = Draining()


def configure_logging(level: str) -> None:
    """Write our own log as JSON lines of at least `level` to standard error."""
    numeric = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_serialize),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stream())),
        cache_logger_on_first_use=True,
    )


def _serialize(event: dict[str, Any], **_: object) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=str).decode()
    except UnicodeEncodeError:  # a lone surrogate from outside must not cost the line, or whoever wrote it
        return json.dumps(event, default=str)


class _Stream:
    """Standard error, whose loss must not cost a request."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _request_id(given: str | None) -> str:
    # Envoy sends a UUID; anything else a client may send is not worth trusting in logs.
    try:
        return str(uuid.UUID(given)) if given else str(uuid.uuid4())
    except ValueError:
        return str(uuid.uuid4())


class TelemetryMiddleware:
    """Gives every request an id, every response its id and region, and the log one line about both.

    Args:
        region: Name of this worker's region, sent as `Tidegate-Region`.
        draining: Whether this worker is about to stop; then every answer asks its client to connect elsewhere.
    """

    def __init__(self, region: str, draining: Draining) -> None:
        self._region = region
        self._draining = draining

    async def process_request(self, req: Request, resp: Response) -> None:
        """Note the start and the id of the request."""
        req.context.started = time.perf_counter()
        req.context.request_id = _request_id(req.get_header("X-Request-Id"))

    async def process_response(self, req: Request, resp: Response, resource: object, req_succeeded: bool) -> None:
        """Name the id and the region, and log the request; never its query, headers or body, which may hold secrets."""
        resp.set_header("X-Request-Id", req.context.request_id)
        resp.set_header("Tidegate-Region", self._region)
        if self._draining.started:
            resp.set_header("Connection", "close")
        if getattr(resource, "public", False):
            return
        log.info(
            "request",
            request_id=req.context.request_id,
            method=req.method,
            route=req.uri_template,
            status=resp.status_code,
            tid=getattr(req.context, "tids", (None,))[0],
            tier=getattr(getattr(req.context, "tier", None), "name", None),
            milliseconds=round((time.perf_counter() - req.context.started) * 1000, 2),
        )
