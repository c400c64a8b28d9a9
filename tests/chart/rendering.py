"""The chart as `helm template` renders it, and looking things up in it; called by the tests of the chart."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/tidegate"
Helm = Callable[..., subprocess.CompletedProcess[str]]
Json = dict[str, Any]


def render(helm: Helm, *arguments: str, chart: Path = CHART) -> list[Json]:
    """All objects, in the namespace `apis`. Fails with what Helm says."""
    result = helm("template", "tidegate", str(chart), "--namespace", "apis", *arguments)
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def refusal(helm: Helm, *arguments: str) -> str:
    """What Helm says to values that it refuses; fails when it renders them."""
    result = helm("template", "tidegate", str(CHART), *arguments)
    assert result.returncode != 0, result.stdout
    return result.stderr


def templates(documents: list[Json]) -> Iterator[Json]:
    """The pod template of each workload."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["spec"]["template"]


def pods(documents: list[Json]) -> Iterator[Json]:
    """The pod of each workload."""
    return (template["spec"] for template in templates(documents))


def find(documents: list[Json], kind: str, name: str) -> Json:
    """The object of that kind and name."""
    return next(document for document in documents if (document["kind"], document["metadata"]["name"]) == (kind, name))
