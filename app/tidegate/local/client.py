"""A small HTTP client on one kept connection, which counts a broken one as a failure; called by `run.py` and `tour.py`."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def region(self) -> str:
        """The region that answered; empty when none says so."""
        return self.headers.get("tidegate-region", "")

    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Client:
    """Requests to one loopback port, with one token.

    Raises:
        OSError: From `get` and `post`: no connection, or it broke (`http.client.HTTPException` is translated).
    """

    def __init__(self, port: int, token: str = "", timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str) -> Answer:
        """`GET path`."""
        return self._request("GET", path)

    def post(self, path: str, content: Mapping[str, object], key: str) -> Answer:
        """`POST path` with JSON `content` under the idempotency key `key`."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": f'"{key}"'}
        return self._request("POST", path, json.dumps(content).encode(), headers)

    def _request(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        try:
            self._connection.request(method, path, body, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException) as ex:
            self._connection.close()
            raise OSError(f"{method} {path}: {ex or type(ex).__name__}") from ex
