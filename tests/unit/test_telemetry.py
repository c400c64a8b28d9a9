"""The log lines."""

import json

import pytest

from tidegate import telemetry
from tidegate_operator import logs


@pytest.mark.parametrize("serialize", [telemetry._serialize, logs._serialize])
def test_no_text_from_outside_can_cost_a_log_line(serialize):
    """A lone surrogate passes JSON parsers and no encoder."""
    assert json.loads(serialize({"reason": "spec.\ud800: unknown field"})) == {"reason": "spec.\ud800: unknown field"}
