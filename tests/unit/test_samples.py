"""What the repository ships for people to copy."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.contract.tier import Tier

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "k8s/tiers").iterdir())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_tier_is_valid_and_named_like_its_file(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())

    assert Tier.from_spec(manifest["metadata"]["name"], manifest["spec"]).name == path.stem


def test_the_sample_tiers_use_every_field_of_the_definition() -> None:
    """Who copies them finds each there, and has nothing to look up elsewhere."""
    definition = yaml.safe_load((ROOT / "charts/tidegate/files/ratelimittiers.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

    used = {field for path in SAMPLES for field in fields_of(yaml.safe_load(path.read_text())["spec"])}

    assert used == set(fields_in(schema))


def test_each_field_of_the_sample_tiers_is_explained() -> None:
    """By a comment on its line, in one of them."""
    lines = [line for path in SAMPLES for line in path.read_text().splitlines()]
    explained = {name for line in lines if "#" in line for name in re.findall(r"(\w+):", line.partition("#")[0])}

    assert {field.rpartition(".")[2] for path in SAMPLES for field in leaves_of(yaml.safe_load(path.read_text())["spec"])} <= explained


def fields_in(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in schema.get("properties", schema.get("items", {}).get("properties", {})).items():
        yield f"{path}.{name}"
        yield from fields_in(inner, f"{path}.{name}")


def fields_of(value: object, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            yield from fields_of(inner, f"{path}.{name}")
    if isinstance(value, list):
        for inner in value:
            yield from fields_of(inner, path)


def leaves_of(spec: object) -> Iterator[str]:
    fields = set(fields_of(spec))
    return (field for field in fields if not any(other.startswith(f"{field}.") for other in fields))
