"""What tests of the cache share: an application in process with a resource that counts its calls, and tiers with lanes on real servers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import falcon
import http_sf
import httpx
from redis.asyncio import Redis
from tests.redis.conftest import PATIENT
from tests.redis.test_application import lifespan

from tidegate.application import create_app
from tidegate.cache.policy import CachePolicy
from tidegate.contract import keys
from tidegate.contract.codec import TierDocument, encode_tier
from tidegate.contract.tier import Tier
from tidegate.settings import Settings

TTL_SECONDS = 60
SHARED = {"lane": "Shared", "ttl": f"{TTL_SECONDS}s", "staleWhileRevalidate": "30s"}
DEDICATED = {**SHARED, "lane": "Dedicated", "memory": "16Mi"}
PATH = "/v1/documents/a"


class Documents:
    """`/v1/documents/{name}`, whose answer is what the test sets, and who asks; PUT changes it for the tenant."""

    def __init__(self, policy: CachePolicy | None = None) -> None:
        self.cached = policy or CachePolicy()
        self.calls = 0
        self.version = 1
        self.changes = Counter[str]()
        self.size = 0
        self.headers: dict[str, str] = {}
        self.cookie = ""
        self.body: bytearray | None = None
        self.error: Exception | None = None
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()

    async def on_get(self, req: Any, resp: Any, name: str) -> None:
        self.calls += 1
        principal = req.context.principal
        version = self.version + self.changes[principal.tenant]
        await self.gate.wait()
        if self.error:
            resp.set_header("X-Half-Done", "yes")
            raise self.error
        fields = [req.get_header(field) or "" for field in self.cached.vary]
        text = "|".join([principal.tenant, *sorted(principal.scopes), name, req.query_string, *fields, str(version)])
        resp.status, resp.content_type = falcon.code_to_http_status(self.status), "text/plain"
        resp.data = text.encode() + b"." * self.size
        if req.method == "HEAD":
            resp.data = b""  # as handlers do that save themselves the work
        if self.body is not None:
            resp.data = self.body
        resp.set_headers(self.headers)
        if req.get_header("Range"):
            resp.status, resp.data = falcon.HTTP_206, resp.data[:4]
        if req.get_header("If-Modified-Since"):
            resp.status, resp.data = falcon.HTTP_304, None
        if self.cookie:
            resp.set_cookie("a", self.cookie)

    async def on_put(self, req: Any, resp: Any, name: str) -> None:
        tenant = req.context.principal.tenant
        self.changes[tenant] += 1
        resp.media = {"version": self.version + self.changes[tenant]}
        if location := req.get_param("location"):
            resp.set_header("Location", location)
        if req.get_param("fail"):
            raise falcon.HTTPForbidden


class Api:
    """The application of one worker in process, and a client of it."""

    def __init__(self, app: Any, client: httpx.AsyncClient, issuer: Any, documents: Documents) -> None:
        self.app, self.documents = app, documents
        self._client, self._issuer, self._keys = client, issuer, 0

    def token(self, tier: str = "pro", tenant: str = "acme", client: str = "demo", scope: str = "api") -> str:
        return str(self._issuer.mint(tier, tenant=tenant, client=client, scope=scope))

    async def get(self, path: str = PATH, *, token: str = "", method: str = "GET", **fields: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token()}"} | {name.replace("_", "-"): value for name, value in fields.items()}
        return await self._client.request(method, path, headers=headers)

    async def put(self, path: str = PATH, *, token: str = "", **fields: str) -> httpx.Response:
        self._keys += 1
        headers = {"Authorization": f"Bearer {token or self.token()}", "Idempotency-Key": f'"put-{self._keys:012}-{id(self)}"'} | fields
        return await self._client.put(path, headers=headers)


def cache_status(answer: httpx.Response) -> tuple[str, dict[str, Any]]:
    """The lane and the parameters of `Cache-Status`, read as a structured field."""
    ((lane, parameters),) = http_sf.parse(answer.headers["Cache-Status"].encode(), tltype="list")
    return str(lane), {name: str(value) if isinstance(value, http_sf.Token) else value for name, value in parameters.items()}


async def publish(redis: Redis, *documents: TierDocument) -> None:
    for document in documents:
        await redis.hset(keys.TIERS, document.tier.name, encode_tier(document))
    await redis.set(keys.REVISION, 1)


def document(name: str, cache: dict[str, Any], *, lane: str = "", uid: str = "") -> TierDocument:
    windows = [{"name": "hour", "limit": 10**6, "period": "1h"}]
    # A crowd is to meet in the cache, not in the queue before it.
    spec = {"windows": windows, "admission": {"maxInFlight": 1_000}, "cache": cache}
    return TierDocument(Tier.from_spec(name, spec), uid or f"uid-{name}", 1, lane)


@asynccontextmanager
async def serving(issuer: Any, regional: str, store: str, documents: Documents, **settings: str) -> AsyncIterator[Api]:
    environment = issuer.environment | {"TIDEGATE_REGION": "dublin", "TIDEGATE_REDIS_URL": regional, "TIDEGATE_STORE_URL": store}
    app = create_app(Settings.from_environment(environment | PATIENT | settings))
    app.add_route("/v1/documents/{name}", documents)
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        yield Api(app, client, issuer, documents)


Serve = Callable[..., Any]
