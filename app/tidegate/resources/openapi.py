"""The OpenAPI document; wired by `application.py`."""

import hashlib
from importlib import resources

from falcon import ETag
from falcon.asgi import Request, Response

MAXIMUM_AGE_SECONDS = 300
"""How long a cache need not ask whether there is a newer one."""


class OpenApi:
    """`GET /openapi.yaml`: the document beside this module, as it stands there; the same for everybody, so it needs no token."""

    public = True

    def __init__(self) -> None:
        self._document = resources.files(__package__).joinpath("openapi.yaml").read_bytes()
        self._etag = ETag(hashlib.sha256(self._document).hexdigest()[:32])

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer the document."""
        resp.etag, resp.cache_control = self._etag, ("public", f"max-age={MAXIMUM_AGE_SECONDS}")
        resp.data, resp.content_type = self._document, "application/yaml"
