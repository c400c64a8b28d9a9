"""Fixtures of the chart's tests; without Go, which builds Helm, they skip."""

import subprocess

import pytest
from tests.chart.rendering import Helm, Json, render
from tests.kube.tools import ToolUnavailable, tool


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Runs Helm with the given arguments."""
    try:
        binary = str(tool("helm"))
    except ToolUnavailable as ex:
        pytest.skip(str(ex))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> list[Json]:
    """The chart with no values set."""
    return render(helm)
