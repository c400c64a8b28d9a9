"""The application as it is deployed, with one more route whose handler takes `SECONDS`; gunicorn loads it."""

import asyncio
import os
from typing import Any

from tidegate.application import create_app
from tidegate.settings import Settings

SECONDS = float(os.environ.get("HANDLER_SECONDS", "0.05"))


class Slow:
    async def on_get(self, req: Any, resp: Any) -> None:
        await asyncio.sleep(SECONDS)
        resp.media = {"pid": os.getpid()}


app = create_app(Settings.from_environment({name: value for name, value in os.environ.items() if name.startswith("TIDEGATE_")}))
app.add_route("/v1/slow", Slow())
