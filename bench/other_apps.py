"""What `http.py` serves beside the API itself: steps on the way to it, and the API behind other limiters.

Those know the identity from our middleware, ask for one window or three, and add no fields to the response.
"""

import os
from typing import Any

from bench.apps import Limited, Unlimited
from falcon import HTTPTooManyRequests
from falcon.asgi import App, Request, Response
from falcon_limiter import AsyncLimiter
from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from tidegate.application import create_app
from tidegate.settings import Settings

LIMITS = {1: "1000000000 per 1 minute", 3: "1000000000 per 1 second; 1000000000 per 1 minute; 1000000000 per 1 hour"}


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that only answers: what the server costs."""
    if scope["type"] == "http":
        head = [(b"content-type", b"application/json"), (b"content-length", b"15")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b'{"status":"ok"}'})
        return
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def falcon() -> App[Request, Response]:
    """Falcon without any middleware."""
    app = App()
    app.add_route("/bench/bare", Limited())
    return app


class LibraryMiddleware:
    """`limits`, where our limiter would be."""

    def __init__(self, storage: RedisStorage) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        for item in getattr(resource, "items", ()):
            if not await self._limiter.hit(item, req.context.tids[0]):
                raise HTTPTooManyRequests


class Itemized(Unlimited):
    def __init__(self, items: list[RateLimitItem]) -> None:
        self.items = items


def library() -> App[Request, Response]:
    """The API behind `limits`."""
    settings = Settings.from_environment(os.environ)
    app = create_app(settings)
    app.add_middleware(LibraryMiddleware(RedisStorage(f"async+{settings.redis_url}", implementation="redispy")))
    for windows, text in LIMITS.items():
        app.add_route(f"/bench/{windows}", Itemized(parse_many(text)))
    return app


def falcon_limiter() -> App[Request, Response]:
    """The API behind falcon-limiter."""
    settings = Settings.from_environment(os.environ)
    limiter = AsyncLimiter(
        key_func=lambda req, resp, resource, params: req.context.tids[0],
        config={
            "RATELIMIT_STORAGE_URL": f"async+{settings.redis_url}",
            "RATELIMIT_STORAGE_OPTIONS": {"implementation": "redispy"},
            "RATELIMIT_STRATEGY": "sliding-window-counter",
        },
    )
    app = create_app(settings)
    app.add_middleware(limiter.middleware)

    for windows, text in LIMITS.items():
        responder = limiter.limit(text)(Limited.on_get)
        app.add_route(f"/bench/{windows}", type("Decorated", (Unlimited,), {"on_get": responder})())
    return app
