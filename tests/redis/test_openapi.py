"""The OpenAPI document and a worker say the same: routes and scopes as they are wired, and answers over HTTP, tried by schemathesis."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from redis.asyncio import Redis
from schemathesis import Case, CheckContext, GenerationMode, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NOT_SET
from tests.ports import free_port
from tests.redis.conftest import Issuer, Start, publish_pro, wait_for

from tidegate.application import create_app
from tidegate.routing import SAFE_METHODS, Router
from tidegate.settings import Settings

pytestmark = pytest.mark.worker

TEXT = resources.files("tidegate.resources").joinpath("openapi.yaml").read_bytes()
DOCUMENT: dict[str, Any] = yaml.load(TEXT, yaml.CSafeLoader)
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def routed(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The resource of each route of a worker that has everything."""
    found: dict[str, object] = {}
    add_route = Router.add_route

    def note(router: Router, uri_template: str, resource: object, **options: Any) -> None:
        found[uri_template] = resource
        add_route(router, uri_template, resource, **options)

    monkeypatch.setattr(Router, "add_route", note)
    urls = {
        "TIDEGATE_REDIS_URL": "redis://127.0.0.1",
        "TIDEGATE_STORE_URL": "redis://127.0.0.1",
        "TIDEGATE_PAYMENTS_URL": "http://127.0.0.1",
    }
    create_app(Settings.from_environment(issuer.environment | urls | {"TIDEGATE_REGION": "frankfurt"}))
    return found


def test_every_route_is_in_the_document_and_nothing_else(routed: dict[str, object]):
    """API9: method by method; HEAD is where GET is, as the document says."""
    written = {path: METHODS & operations.keys() for path, operations in DOCUMENT["paths"].items()}

    assert written == {
        template: {method.lower() for method in Router().map_http_methods(resource)} - {"head"} for template, resource in routed.items()
    }


def test_the_document_names_the_scopes_that_are_needed(routed: dict[str, object]):
    """Nothing for a public resource, the scope of the method for any other."""
    for path, operations in DOCUMENT["paths"].items():
        for method in METHODS & operations.keys():
            resource = routed[path]
            scope = getattr(resource, "scopes", {}).get(method.upper())
            needed = [] if getattr(resource, "public", False) else [{"token": [scope] if scope else []}]
            assert operations[method].get("security", DOCUMENT["security"]) == needed, f"{method} {path}"


def test_the_document_names_the_mutations_whose_key_is_refused_after_its_retention(routed: dict[str, object]):
    for path, operations in DOCUMENT["paths"].items():
        days = getattr(routed[path], "tombstone_seconds", 0) // 86_400
        for method in operations.keys() & METHODS:
            assert (f"refused for {days} days" in operations[method].get("description", "")) == bool(days), f"{method} {path}"


def test_every_operation_names_what_the_platform_answers_before_and_around_it(routed: dict[str, object]):
    for path, operations in DOCUMENT["paths"].items():
        resource = routed[path]
        for method in METHODS & operations.keys():
            expected = set() if getattr(resource, "public", False) else {"401", "500", "503"}
            if expected and getattr(resource, "rate_limited", True):
                expected |= {"403", "429"}
            if method.upper() not in SAFE_METHODS:
                expected |= {"400", "408", "409", "413", "422"}
            assert expected <= operations[method]["responses"].keys(), f"{method} {path}"
            assert ("429" in operations[method]["responses"]) == ("429" in expected), f"{method} {path}"


@pytest.fixture
def provider() -> Iterator[str]:
    """Address of a payment provider."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "tidegate.local.payment_provider", "--port", str(port)]) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/", 404)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture
async def base(start: Start, port: int, redis: Redis, durable: Any, provider: str) -> str:
    """Address of a worker that has everything."""
    await publish_pro(redis)
    patient = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "5", "TIDEGATE_DRAIN_SECONDS": "0"}
    start(TIDEGATE_PAYMENTS_URL=provider, TIDEGATE_STORE_URL=durable.url, **patient)
    wait_for(f"http://127.0.0.1:{port}/readyz", 200)
    return f"http://127.0.0.1:{port}"


def example_of(operation: Any, ids: dict[str, str]) -> Case:
    raw = operation.definition.raw
    parameters = [*raw.get("parameters", []), *DOCUMENT["paths"][operation.path].get("parameters", [])]
    body = raw.get("requestBody", {}).get("content", {}).get("application/json", {})
    return operation.Case(
        path_parameters={p["name"]: ids.get(p["name"], p["example"]) for p in parameters if p.get("in") == "path"},
        body=body.get("example", NOT_SET),
        media_type="application/json" if body else None,
    )


def fresh_key() -> dict[str, str]:
    return {"Idempotency-Key": f'"{uuid.uuid4()}"'}


EVERYWHERE = {
    "x-request-id",
    "tidegate-region",
    "content-type",
    "content-length",
    "cache-control",
    "cdn-cache-control",
    "connection",
    "date",
    "vary",
}


def every_field_is_in_the_document(ctx: CheckContext, response: Response, case: Case) -> None:
    described = DOCUMENT["paths"][case.operation.path][case.method.lower()]["responses"][str(response.status_code)]
    if "$ref" in described:
        described = DOCUMENT["components"]["responses"][described["$ref"].rpartition("/")[2]]
    assert response.headers.keys() - EVERYWHERE <= {name.lower() for name in described.get("headers", {})}


CHECKS = {
    "positive_data_acceptance": {"expected-statuses": ["2xx", "304", "404", "412"]},
    "negative_data_rejection": {"expected-statuses": ["400", "401", "404", "412", "413", "415", "422"]},
}


def operations() -> Iterator[Any]:
    config = SchemathesisConfig.from_dict({"checks": CHECKS})
    for result in schemathesis.openapi.from_dict(DOCUMENT, config=config).get_all_operations():
        yield result.ok()


async def test_every_example_of_the_document_succeeds(base: str, issuer: Issuer):
    """What is made first is then read and deleted."""
    token, ids, order = {"Authorization": f"Bearer {issuer.mint('pro')}"}, {}, ["post", "put", "get", "delete"]
    for operation in sorted(operations(), key=lambda operation: order.index(operation.method)):
        answer = example_of(operation, ids).call_and_validate(
            base, headers=token | fresh_key(), additional_checks=[every_field_is_in_the_document]
        )
        if operation.path == "/v1/payments":
            ids["payment_id"] = answer.json()["id"]
        assert 200 <= answer.status_code < 300


def is_written_with_a_fraction(body: object) -> bool:
    """`1.0` is an integer to JSON Schema, and to nobody who reads the document's words."""
    return isinstance(body, dict) and any(isinstance(member, float) and member.is_integer() for member in body.values())


tried = settings(max_examples=5, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


async def test_whatever_is_sent_is_answered_as_the_document_says(base: str, issuer: Issuer):
    """DOC-1: what it allows is accepted, what it does not allow is refused, and answers have its statuses, types, fields and members."""
    token = {"Authorization": f"Bearer {issuer.mint('pro')}"}

    def call(case: Case, headers: dict[str, str]) -> None:
        case.call_and_validate(base, headers=token | headers, additional_checks=[every_field_is_in_the_document])

    for operation in operations():
        allowed = operation.as_strategy(GenerationMode.POSITIVE).filter(lambda case: not is_written_with_a_fraction(case.body))
        tried(given(case=allowed)(lambda case: call(case, fresh_key())))()
        if operation.method.upper() not in SAFE_METHODS:
            tried(given(case=operation.as_strategy(GenerationMode.NEGATIVE))(lambda case: call(case, {})))()
