"""The API with two more routes that do nothing: one behind the limiter, one not; served by `servers.py`."""

import os

from falcon.asgi import Request, Response

from tidegate.application import create_app
from tidegate.settings import Settings
from tidegate.telemetry import configure_logging


class Limited:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = b'{"status":"ok"}'


class Unlimited(Limited):
    rate_limited = False


class Bare(Limited):
    public = True
    rate_limited = False


configure_logging("warning")
app = create_app(Settings.from_environment(os.environ))
app.add_route("/bench/bare", Bare())
app.add_route("/bench/unlimited", Unlimited())
app.add_route("/bench/limited", Limited())
