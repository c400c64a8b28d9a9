"""The log lines."""

import json
import subprocess
import sys

import pytest

CONFIGURATIONS = {"tidegate.telemetry": ("info",), "tidegate_operator.logs": ("info", "json")}


@pytest.mark.parametrize("module", CONFIGURATIONS)
def test_no_text_from_outside_can_cost_a_log_line(module: str):
    """A lone surrogate passes JSON parsers and no encoder."""
    program = f"""
import structlog
from {module} import configure_logging
configure_logging(*{CONFIGURATIONS[module]!r})
structlog.get_logger().info("refused", reason="spec.\\ud800: unknown field")
"""

    # A process of its own, for the configuration is the process's.
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)

    assert json.loads(result.stderr)["reason"] == "spec.\ud800: unknown field"
