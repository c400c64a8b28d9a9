"""The operator's log format; called once at start by both entry points."""

import logging
import sys

import structlog

CHATTY = ("aiohttp.access", "kopf.activities.probe", "kopf.objects")
"""Loggers of libraries with a line for each probe and for each event of each object."""


def configure_logging(level: str, form: str) -> None:
    """Write lines of at least `level` to standard error, as JSON or, when `form` is plain, for a terminal.

    The level holds for what libraries log too. That a probe was answered or an event handed on is for debugging alone.
    """
    lowest = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger().setLevel(lowest)
    for name in CHATTY:
        logging.getLogger(name).setLevel(lowest if lowest <= logging.DEBUG else max(lowest, logging.WARNING))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False) if form == "plain" else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
