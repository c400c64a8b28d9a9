"""What the operator writes at which level."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from tidegate_operator.logs import CHATTY, configure_logging


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Leave other tests what they had."""
    names = ("", *CHATTY)
    before, configuration = {name: logging.getLogger(name).level for name in names}, structlog.get_config()
    yield
    structlog.configure(**configuration)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("name", CHATTY)
@pytest.mark.parametrize(("level", "is_shown"), [("debug", True), ("info", False), ("error", False)])
def test_a_probe_and_an_event_are_worth_a_line_to_who_debugs_alone(name: str, level: str, is_shown: bool) -> None:
    configure_logging(level, "json")

    assert logging.getLogger(name).isEnabledFor(logging.INFO) is is_shown


@pytest.mark.parametrize("name", CHATTY)
def test_what_goes_wrong_with_one_is_shown_unless_errors_alone_are(name: str) -> None:
    configure_logging("info", "json")
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)

    configure_logging("error", "json")
    assert not logging.getLogger(name).isEnabledFor(logging.WARNING)
