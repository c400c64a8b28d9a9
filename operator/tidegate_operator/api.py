"""The two calls to the Kubernetes API that kopf does not make for us, list and status patch; called by the reconciler in kube mode.

A status changes when workers report, not only when an object's event comes, so it is written outside of kopf's handlers.
The client logs in with the function that kopf logs in with; it needs `list` on ratelimittiers and `patch` on ratelimittiers/status.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from ssl import SSLContext
from typing import Any, Protocol

import aiohttp

from tidegate.contract.errors import TidegateError
from tidegate_operator.desired import DesiredTier, Listing, desired_tier
from tidegate_operator.errors import ReportError, SourceUnavailableError

GROUP, VERSION, PLURAL = "tidegate.dev", "v1alpha1", "ratelimittiers"
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
PAGE = 500


class Connection(Protocol):
    """Where the API server is and how to prove who we are; `kopf.ConnectionInfo` is one."""

    @property
    def server(self) -> str:
        """Its URL."""

    @property
    def default_namespace(self) -> str | None:
        """The namespace of the login."""

    def as_http_headers(self) -> dict[str, str]:
        """The Authorization field."""

    def as_ssl_context(self) -> SSLContext:
        """Its certificate authority and our client certificate."""


class _ApiError(TidegateError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TierApi:
    """The RateLimitTiers of one namespace.

    The certificate authority is read at the first request only, as kopf reads it once too: whoever replaces it restarts every pod.

    Args:
        log_in: Called before each request, so that a rotated service account token is taken up at once. Whatever it raises counts as an
            API server that cannot be reached: a file that is replaced this moment may be missing or half written.
        namespace: Where the tiers are; empty: the namespace of the login.
    """

    def __init__(self, log_in: Callable[[], Connection], namespace: str) -> None:
        self._log_in = log_in
        self._namespace = namespace
        self._session: aiohttp.ClientSession | None = None

    async def list(self) -> Listing:
        """All tiers that are not being deleted.

        Raises:
            SourceUnavailableError: The API server failed or refused.
        """
        tiers: dict[str, DesiredTier] = {}
        query = {"limit": str(PAGE)}
        while True:
            try:
                page = await self._request("GET", "", query=query)
                wanted = [read_object(body) for body in page["items"] if "deletionTimestamp" not in body["metadata"]]
                token = page["metadata"].get("continue")
            except _ApiError as ex:
                raise SourceUnavailableError(str(ex)) from ex
            except (KeyError, TypeError, AttributeError) as ex:
                raise SourceUnavailableError(f"GET {PLURAL}: the answer is no list of tiers") from ex
            tiers |= {tier.name: tier for tier in wanted}
            if not token:
                return Listing(tiers, is_complete=True)
            query["continue"] = token

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        """Write a tier's whole status; an object that is gone meanwhile is no error.

        Raises:
            ReportError: The API server failed or refused.
        """
        # The uid keeps a late write away from a new object of the same name.
        body = {"metadata": {"uid": tier.uid}, "status": status}
        try:
            await self._request("PATCH", f"/{tier.name}/status", body=body)
        except _ApiError as ex:
            if ex.status not in (404, 409):
                raise ReportError(str(ex)) from ex

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            connection = self._log_in()
        except SourceUnavailableError as ex:
            raise _ApiError(0, str(ex)) from ex
        except Exception as ex:
            # The class alone: a parser's text quotes the file, which holds credentials.
            raise _ApiError(0, f"cannot log in: {type(ex).__name__}") from ex
        namespace = self._namespace or connection.default_namespace or "default"
        url = f"{connection.server.rstrip('/')}/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}{path}"
        headers = connection.as_http_headers() | ({"Content-Type": "application/merge-patch+json"} if body else {})
        try:
            async with self._client(connection).request(method, url, params=query, json=body, headers=headers) as response:
                text = await response.text()
                answer = dict(json.loads(text) if response.status < 400 else {"message": _message(text)})
        except (aiohttp.ClientError, OSError, TypeError, ValueError) as ex:
            raise _ApiError(0, f"{method} {PLURAL}{path}: {type(ex).__name__}") from ex
        if response.status >= 400:
            raise _ApiError(response.status, f"{method} {PLURAL}{path}: {response.status} {answer['message']}")
        return answer

    def _client(self, connection: Connection) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=connection.as_ssl_context())
            self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self._session


def _message(text: str) -> str:
    # A Status object, or plain text where the definition is missing.
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200]


def read_object(body: Mapping[str, Any]) -> DesiredTier:
    """What a RateLimitTier, as the API server sends it, wants."""
    metadata = body["metadata"]
    status, created = body.get("status") or {}, metadata["creationTimestamp"]
    tier = desired_tier(metadata["name"], metadata["uid"], metadata["generation"], body.get("spec"), status=status, created=created)
    # A number on every API server that keeps its objects in etcd; elsewhere two objects of one second are not ordered.
    version = metadata.get("resourceVersion", "")
    return replace(tier, resource_version=int(version)) if version.isdecimal() else tier
