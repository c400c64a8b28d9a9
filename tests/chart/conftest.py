"""Fixtures of the chart's tests; without Go, which builds Helm, they skip."""

import subprocess
from contextlib import suppress

import pytest
from tests.chart.rendering import Helm, Json, render
from tests.kube.tools import ToolUnavailable, tool


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the tests need before any of them starts: a first build takes longer than a test may."""
    if not session.config.option.collectonly:
        for name in ("helm", "kubectl"):
            with suppress(ToolUnavailable):
                tool(name)


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
