"""The ASGI application that gunicorn loads: settings from the environment, nothing else."""

import os
import sys

from gunicorn.arbiter import Arbiter

from tidegate.application import create_app
from tidegate.settings import Settings, SettingsError
from tidegate.telemetry import configure_logging

try:
    settings = Settings.from_environment(os.environ)
    configure_logging(settings.log_level)
    app = create_app(settings)
except SettingsError as ex:
    print(f"tidegate: {ex}", file=sys.stderr)  # noqa: T201 - for the person who started it
    # The status by which gunicorn knows that another try would end alike.
    sys.exit(Arbiter.WORKER_BOOT_ERROR)
