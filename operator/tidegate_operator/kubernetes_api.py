"""The Kubernetes API of one namespace over HTTP, for the calls that kopf does not make for us; used by `api.py`, `lanes.py` and `lease.py`.

The client logs in with the function that kopf logs in with.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from ssl import SSLContext
from typing import Any, Protocol

import aiohttp

from tidegate.contract.errors import TidegateError
from tidegate_operator.errors import SourceUnavailableError

TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)


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


class ApiError(TidegateError):
    """The API server failed or refused; `status` is that of its answer, 0 when there was none."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubernetesApi:
    """Requests to the API server.

    The certificate authority is read at the first request only, as kopf reads it once too: whoever replaces it restarts every pod.

    Args:
        log_in: Called before each request, so that a rotated service account token is taken up at once. Whatever it raises counts as an
            API server that cannot be reached: a file that is replaced this moment may be missing or half written.
        namespace: Where the objects are; empty: the namespace of the login.
    """

    def __init__(self, log_in: Callable[[], Connection], namespace: str) -> None:
        self._log_in = log_in
        self._namespace = namespace
        self._session: aiohttp.ClientSession | None = None

    async def list(self, version: str, resource: str, query: Mapping[str, str]) -> dict[str, Any]:
        """A page of the objects of a resource of a group and version.

        Raises:
            ApiError: The API server failed or refused; the other methods raise it too.
        """
        return await self._request("GET", version, resource, query=query)

    async def read(self, version: str, path: str) -> dict[str, Any]:
        """The object at `path`, resource and name."""
        return await self._request("GET", version, path)

    async def create(self, version: str, resource: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object that is not there yet."""
        return await self._request("POST", version, resource, body=body, media_type="application/json")

    async def merge(self, version: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Patch the object at `path`, resource and name, by what `body` says of it."""
        return await self._request("PATCH", version, path, body=body, media_type="application/merge-patch+json")

    async def patch(self, version: str, path: str, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Change the object at `path`, resource and name, by the operations of a JSON Patch (RFC 6902), all of them or none."""
        return await self._request("PATCH", version, path, body=operations, media_type="application/json-patch+json")

    async def apply(self, version: str, path: str, body: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """Have the object be as `body` says, made if it is not there; what others wrote in its fields is overwritten."""
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        # JSON is YAML.
        return await self._request("PATCH", version, path, query=query, body=body, media_type="application/apply-patch+yaml")

    async def delete(self, version: str, path: str) -> None:
        """Delete the object, if it is there."""
        try:
            await self._request("DELETE", version, path)
        except ApiError as ex:
            if ex.status != 404:
                raise

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _request(
        self,
        method: str,
        version: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        media_type: str = "",
    ) -> dict[str, Any]:
        connection = self._connection()
        namespace = self._namespace or connection.default_namespace or "default"
        prefix = "apis" if "/" in version else "api"
        url = f"{connection.server.rstrip('/')}/{prefix}/{version}/namespaces/{namespace}/{path}"
        headers = connection.as_http_headers() | ({"Content-Type": media_type} if body else {})
        try:
            async with self._client(connection).request(method, url, params=query, json=body, headers=headers) as response:
                text = await response.text()
                answer = dict(json.loads(text) if response.status < 400 else {"message": _message(text)})
        except (aiohttp.ClientError, OSError, TypeError, ValueError) as ex:
            raise ApiError(0, f"{method} {path}: {type(ex).__name__}") from ex
        if response.status >= 400:
            raise ApiError(response.status, f"{method} {path}: {response.status} {answer['message']}")
        return answer

    def _connection(self) -> Connection:
        try:
            return self._log_in()
        except SourceUnavailableError as ex:
            raise ApiError(0, str(ex)) from ex
        except Exception as ex:
            # The class alone: a parser's text quotes the file, which holds credentials.
            raise ApiError(0, f"cannot log in: {type(ex).__name__}") from ex

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
