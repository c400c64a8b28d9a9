"""Liveness and readiness for kubelet and edge; wired by `application.py`."""

from collections.abc import Callable, Sequence

from falcon import HTTP_200, HTTP_503
from falcon.asgi import Request, Response

Check = tuple[str, Callable[[], bool]]
"""A name for people and a question that costs no I/O: true means fine."""


class Live:
    """`GET /livez`: the event loop turns. Touches nothing outside, or a lost Redis would restart every pod (OPS-1)."""

    public = True

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer `ok`."""
        resp.media = {"status": "ok"}


class Ready:
    """`GET /readyz`: whether this worker can decide requests now; the answer names what is missing and nothing more."""

    public = True

    def __init__(self, checks: Sequence[Check]) -> None:
        self._checks = tuple(checks)

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer 200, or 503 with the names of the failed checks."""
        failed = [name for name, is_fine in self._checks if not is_fine()]
        resp.status = HTTP_503 if failed else HTTP_200
        resp.media = {"status": "unavailable" if failed else "ok", "failed": failed}
