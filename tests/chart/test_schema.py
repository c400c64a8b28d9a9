"""The schema of the values: closed and complete at every level that is the chart's own."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from tests.chart.rendering import CHART, Helm, Json, refusal

SCHEMA: Json = json.loads((CHART / "values.schema.json").read_text())
VALUES: Json = yaml.safe_load((CHART / "values.yaml").read_text())
VALIDATOR = Draft7Validator(SCHEMA)
Path = tuple[str | int, ...]
WRONG: dict[type, list[Any]] = {
    bool: ["yes", 1, [], {}],
    int: ["1", True, 1.5, [], {}],
    str: [1, True, [], {}],
    list: ["text", 1, True, {"a": "b"}],
    dict: ["text", 1, True, ["a"]],
}


def resolved(schema: Json) -> Json:
    """A schema, or the definition that it refers to."""
    return SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def schema_at(path: Path) -> Json:
    """What the schema says of a value."""
    found = SCHEMA
    for part in path:
        found = resolved(found["items"] if isinstance(part, int) else found["properties"][part])
    return found


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value with its path, down to where Kubernetes decides or names are free."""
    yield path, value
    if isinstance(value, dict) and "properties" in schema_at(path):
        for key, child in value.items():
            yield from nodes(child, (*path, key))
    if isinstance(value, list) and "properties" in resolved(schema_at(path)["items"]):
        for index, child in enumerate(value):
            yield from nodes(child, (*path, index))


NODES = list(nodes(VALUES))


def changed(path: Path, value: Any) -> Json:
    """The default values with another one in that place."""
    values = copy.deepcopy(VALUES)
    place: Any = values
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return values


def test_the_default_values_are_allowed() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert VALIDATOR.is_valid(VALUES)
    assert len(NODES) > 150


def test_an_unknown_key_is_refused_at_every_level() -> None:
    """A typing error would be a value that is not in force."""
    levels = [path for path, value in NODES if isinstance(value, dict) and "properties" in schema_at(path)]

    assert len(levels) > 25
    for path in levels:
        assert schema_at(path)["additionalProperties"] is False, path
        assert not VALIDATOR.is_valid(changed((*path, "unknwon"), "")), path


def test_every_wrong_type_is_refused() -> None:
    for path, value in NODES[1:]:
        for wrong in WRONG[type(value)]:
            if resolved(schema_at(path)).get("type") in (["string", "integer"], ["string", "number"]) and isinstance(wrong, str | int):
                continue
            assert not VALIDATOR.is_valid(changed(path, wrong)), (path, wrong)


def test_a_value_that_is_taken_away_is_refused() -> None:
    """Templates read all of them; `null` removes a default, and each reader would make something else of it."""
    for path, _ in NODES[1:]:
        if not any(isinstance(part, int) for part in path) and "resources" not in path[:-1]:
            values = changed(path, None)
            assert not VALIDATOR.is_valid(values), path
            assert path[-1] in schema_at(path[:-1])["required"], path


def test_the_schema_knows_no_value_that_the_chart_does_not_have() -> None:
    """But for what a parent chart brings along."""

    def names(schema: Json, path: Path) -> Iterator[Path]:
        for key, child in resolved(schema).get("properties", {}).items():
            yield (*path, key)
            if path[-1:] != ("resources",) and key != "resources":
                yield from names(child, (*path, key))

    assert {path for path in names(SCHEMA, ()) if path not in (("global",), ("enabled",))} - {path for path, _ in NODES} == set()


def test_every_property_is_described() -> None:
    def undescribed(schema: Json, path: Path) -> Iterator[Path]:
        for key, child in schema.get("properties", {}).items():
            if "description" not in resolved(child) and path[-1:] not in (("requests",), ("limits",)):
                yield (*path, key)
            yield from undescribed(resolved(child), (*path, key))

    assert list(undescribed(SCHEMA, ())) == []


@pytest.mark.parametrize(
    "settings",
    [
        "api.unknwon=1",
        "store.etcd.tls.unknwon=1",
        "regions[0].name=a,regions[0].unknwon=1",
        "metrics.podMonitor.enabled=yes",
        "edge.replicas=two",
    ],
)
def test_helm_refuses_what_the_schema_does(helm: Helm, settings: str) -> None:
    assert settings.rpartition("=")[0].rpartition(".")[2] in refusal(helm, "--set", settings)
