"""The ASGI application that gunicorn loads: settings from the environment, nothing else."""

import os

from tidegate.application import create_app
from tidegate.settings import Settings
from tidegate.telemetry import configure_logging

settings = Settings.from_environment(os.environ)
configure_logging(settings.log_level)
app = create_app(settings)
