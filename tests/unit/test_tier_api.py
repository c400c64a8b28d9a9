"""The client for the Kubernetes API against a server that answers whatever a test says."""

import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from tidegate_operator.api import TierApi
from tidegate_operator.desired import desired_tier
from tidegate_operator.errors import ReportError, SourceUnavailableError
from tidegate_operator.kubernetes_api import Connection, KubernetesApi
from tidegate_operator.observation import Observation, RegionView, Stored
from tidegate_operator.status import build_status

SPEC = {"windows": [{"name": "minute", "limit": 10, "period": "1m"}]}
MADE = "2026-11-25T12:00:00Z"
TIER = desired_tier("free", "a", 1, SPEC, status={})
PAGE = {"metadata": {}, "items": [{"metadata": {"name": "free", "uid": "a", "generation": 1, "creationTimestamp": MADE}, "spec": SPEC}]}


@dataclass
class Login:
    """A connection without credentials; `failure` is raised by the next log-in, and `tls_failure` by the next handshake's preparation."""

    server: str = ""
    default_namespace: str | None = "apis"
    failure: Exception | None = None
    tls_failure: Exception | None = None

    def __call__(self) -> Connection:
        failure, self.failure = self.failure, None
        if failure:
            raise failure
        return self

    def as_http_headers(self) -> dict[str, str]:
        return {}

    def as_ssl_context(self) -> ssl.SSLContext:
        failure, self.tls_failure = self.tls_failure, None
        if failure:
            raise failure
        return ssl.create_default_context()


@pytest.fixture
def login() -> Login:
    return Login()


@pytest.fixture
async def answering(login: Login) -> AsyncIterator[Callable[[str], None]]:
    """Sets the text of every answer."""
    texts: list[str] = [json.dumps(PAGE)]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=texts[-1], content_type="application/json")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        login.server = str(server.make_url("/"))
        yield texts.append


@pytest.fixture
async def api(login: Login, answering: Any) -> AsyncIterator[TierApi]:
    kubernetes = KubernetesApi(login, "")
    yield TierApi(kubernetes)
    await kubernetes.aclose()


async def test_the_tiers_that_the_server_holds_are_listed(api: TierApi):
    listing = await api.list()

    assert listing.tiers == {"free": desired_tier("free", "a", 1, SPEC, status={}, created=MADE)}


async def test_a_tier_that_stays_behind_a_newer_generation_is_a_warning(api: TierApi):
    kept = desired_tier("free", "a", 9, SPEC).document
    assert kept is not None
    seen = [Observation("dublin", RegionView(5, 1, 1), Stored("free", "a", 9, kept))]
    with capture_logs() as logs:
        await api.report(TIER, build_status(TIER, seen, {}, now=MADE))
        await api.report(TIER, build_status(TIER, [], {}, now=MADE))

    assert [(entry["log_level"], entry["tier"], entry["cause"][:30]) for entry in logs] == [
        ("warning", "free", "dublin: it keeps generation 9,")
    ]


LOGIN_FAILURES = [
    FileNotFoundError("token"),
    yaml.YAMLError("token: secret"),
    KeyError("current-context"),
    SourceUnavailableError("no way to log in"),
]


@pytest.mark.parametrize("failure", LOGIN_FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_login_that_fails_is_a_typed_error_and_the_next_may_succeed(api: TierApi, login: Login, failure: Exception):
    """A kubeconfig or token that is replaced this moment is missing, or half there."""
    login.failure = failure
    with pytest.raises(SourceUnavailableError) as caught:
        await api.list()
    login.failure = failure
    with pytest.raises(ReportError):
        await api.report(TIER, {})

    assert "secret" not in str(caught.value)
    assert (await api.list()).tiers.keys() == {"free"}


async def test_a_certificate_that_cannot_be_read_is_a_typed_error(api: TierApi, login: Login):
    login.tls_failure = ssl.SSLError("no certificate or crl found")

    with pytest.raises(SourceUnavailableError, match="SSLError"):
        await api.list()

    assert (await api.list()).tiers.keys() == {"free"}


@pytest.mark.parametrize(
    "text", ["", "[]", "1", "null", '{"items": null, "metadata": {}}', '{"items": [{}], "metadata": {}}', '{"items": []}']
)
async def test_an_answer_that_is_no_list_of_tiers_is_a_typed_error(api: TierApi, answering: Callable[[str], None], text: str):
    answering(text)

    with pytest.raises(SourceUnavailableError):
        await api.list()


@pytest.mark.parametrize("text", ["", "1"])
async def test_an_answer_to_a_status_that_is_no_object_is_a_typed_error(api: TierApi, answering: Callable[[str], None], text: str):
    answering(text)

    with pytest.raises(ReportError):
        await api.report(TIER, {})
