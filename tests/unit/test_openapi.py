"""The OpenAPI document is sound, and says what the code says: problem types, structs, tiers, the idempotency key and its policy."""

import re
from collections import defaultdict
from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.kube.tier_strategies import names, specs

from tidegate.contract.tier import Tier
from tidegate.idempotency.journal import TOMBSTONE_SECONDS
from tidegate.idempotency.key import MAXIMUM_LENGTH, MINIMUM_LENGTH, parse_key
from tidegate.idempotency.record import NOT_FINAL, STORED_HEADERS
from tidegate.payments.provider import Charge
from tidegate.problems import INTERNAL, MOST, REGISTRY
from tidegate.resources.credits import Account, Purchase, PurchaseOrder
from tidegate.resources.payments import PaymentOrder

Json = dict[str, Any]

DOCUMENT: Json = yaml.load(resources.files("tidegate.resources").joinpath("openapi.yaml").read_bytes(), yaml.CSafeLoader)
COMPONENTS: Json = DOCUMENT["components"]
KEY: Json = COMPONENTS["parameters"]["Idempotency-Key"]
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for method, operation in path.items() if method != "parameters"]


def resolved(value: Json) -> Json:
    while "$ref" in value:
        target: Any = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        value = target
    return value


def validator(schema: Json) -> Draft202012Validator:
    return Draft202012Validator({"components": COMPONENTS, "allOf": [schema]})


def test_the_document_is_valid_openapi_3_1():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def examples(value: object) -> Iterator[tuple[Json, object]]:
    """Every schema that has an example beside it, and the example."""
    if isinstance(value, dict):
        if "example" in value:
            yield value["schema"], value["example"]
        for child in value.values():
            yield from examples(child)
    elif isinstance(value, list):
        for child in value:
            yield from examples(child)


def test_every_example_is_what_its_schema_allows():
    found = list(examples(DOCUMENT))

    assert len(found) > 15
    for schema, example in found:
        validator(schema).validate(example)


def test_every_component_is_used():
    text = str(DOCUMENT)
    pointers = [f"#/components/{kind}/{name}" for kind in ("parameters", "headers", "responses", "schemas") for name in COMPONENTS[kind]]

    assert [pointer for pointer in pointers if f"'{pointer}'" not in text] == []


def described_problems() -> dict[str, set[tuple[str, int]]]:
    """By operation."""
    found: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for operation in OPERATIONS:
        for status, response in operation["responses"].items():
            if content := resolved(response).get("content", {}).get("application/problem+json"):
                rules = content["schema"]["allOf"][1]["properties"]
                assert rules["status"] == {"const": int(status)}
                found[operation["operationId"]] |= {(type_, int(status)) for type_ in rules["type"]["enum"]}
    return found


def test_problem_types_and_the_document_are_equal():
    """ERR-2: by type and status, each of which some operation answers."""
    assert set().union(*described_problems().values()) == {(problem.type, problem.status) for problem in [*REGISTRY.values(), INTERNAL]}
    assert COMPONENTS["schemas"]["Problem"]["properties"]["violations"]["maxItems"] == MOST


def test_every_response_of_a_problem_has_its_fields():
    for problem in [*REGISTRY.values(), INTERNAL]:
        for response in COMPONENTS["responses"].values():
            content = response.get("content", {}).get("application/problem+json")
            if content and problem.type in content["schema"]["allOf"][1]["properties"]["type"]["enum"]:
                assert problem.headers.keys() - {"Connection"} <= response.get("headers", {}).keys(), problem.type


def bare(schema: Json) -> Json:
    """Without words for people."""
    return {
        name: {key: bare(member) for key, member in value.items()} if name == "properties" else value
        for name, value in schema.items()
        if name not in ("title", "description")
    }


@pytest.mark.parametrize("kind", [PurchaseOrder, PaymentOrder])
def test_the_schema_of_a_body_is_that_of_its_struct(kind: type[msgspec.Struct]):
    """And `read_struct` refuses what is not in it."""
    (_,), schemas = msgspec.json.schema_components([kind])

    assert bare(COMPONENTS["schemas"][kind.__name__]) == bare(schemas[kind.__name__]) | {"additionalProperties": False}


@pytest.mark.parametrize("kind", [Account, Purchase, Charge])
def test_the_schema_of_an_answer_is_that_of_its_struct(kind: type[msgspec.Struct]):
    """All members are always there."""
    (_,), schemas = msgspec.json.schema_components([kind])
    expected = bare(schemas[kind.__name__])
    for member in expected["properties"].values():
        member.pop("default", None)

    assert bare(COMPONENTS["schemas"][kind.__name__]) == expected | {"required": list(expected["properties"])}


@given(name=names, spec=specs)
def test_every_tier_is_shown_as_the_document_says(name: str, spec: Json):
    tier = Tier.from_spec(name, spec)

    validator(COMPONENTS["schemas"]["Tier"]).validate({"name": tier.name, "spec": tier.to_spec()})


def test_the_document_knows_every_member_of_a_tier():
    """A new one would go undescribed."""
    spec = Tier.from_spec(
        "gold",
        {
            "displayName": "Gold",
            "windows": [{"name": "second", "limit": 1, "period": "1s"}],
            "costs": [{"path": "/", "cost": 1, "methods": ["GET"]}],
            "cache": {"lane": "Dedicated", "memory": "16Mi"},
        },
    ).to_spec()

    def members(value: object, schema: Json) -> None:
        schema = resolved(schema)
        if isinstance(value, dict):
            assert value.keys() == schema["properties"].keys()
            for name, member in value.items():
                members(member, schema["properties"][name])
        elif isinstance(value, list) and isinstance(value[0], dict):
            members(value[0], schema["items"])

    members(spec, COMPONENTS["schemas"]["Tier"]["properties"]["spec"])


@given(field=st.from_regex(KEY["schema"]["pattern"], fullmatch=True))
def test_every_key_that_the_document_allows_is_taken(field: str):
    assert MINIMUM_LENGTH <= len(parse_key([field])) <= MAXIMUM_LENGTH


@given(key=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=MINIMUM_LENGTH, max_size=MAXIMUM_LENGTH))
def test_every_key_of_printable_ascii_is_one_that_the_document_allows(key: str):
    field = '"' + re.sub(r'(["\\])', r"\\\1", key) + '"'

    validator(KEY["schema"]).validate(field)
    assert parse_key([field]) == key


def test_the_policy_of_idempotency_keys_names_what_the_code_does():
    """IDEM-25: format, scope, stored classes, retention, replay marker."""
    policy = dict(re.findall(r"^- \*\*(.+?)\*\*: (.*(?:\n  .*)*)", KEY["description"], re.MULTILINE))

    assert policy.keys() == {"Format", "Scope", "Same request", "Stored", "Not stored", "Replay", "Retention", "Meanwhile"}
    assert f"{MINIMUM_LENGTH} to {MAXIMUM_LENGTH}" in policy["Format"]
    assert {name.lower() for name in re.findall(r"`([\w-]+)`", policy["Stored"])} == set(STORED_HEADERS)
    assert set(map(int, re.findall(r"\d+", policy["Not stored"].split("another try")[1]))) == NOT_FINAL
    assert f"{TOMBSTONE_SECONDS // 86_400} days" in policy["Retention"]
    assert "`Idempotent-Replayed: true`" in policy["Replay"]


def test_mutations_have_the_key_and_mark_their_stored_answers():
    """Answers below 400 are final, and so are the refusals that a handler decides."""
    final = {"402", "404"}
    mutations = [path[method] for path in DOCUMENT["paths"].values() for method in path.keys() & {"post", "put", "patch", "delete"}]

    assert mutations
    for operation in mutations:
        assert {"$ref": "#/components/parameters/Idempotency-Key"} in operation["parameters"]
        for status, response in operation["responses"].items():
            is_marked = "Idempotent-Replayed" in resolved(response).get("headers", {})
            assert is_marked == (int(status) < 400 or status in final), f"{operation['operationId']} {status}"
