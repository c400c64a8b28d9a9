"""The application as it is deployed, but a test may have a worker die or fall asleep at a fault point, and set its clock wrong.

gunicorn loads it (`stage.py`). `CHAOS_FAULTS` is a directory: a file there that is named as a fault point holds the name of a signal.
`CHAOS_CLOCK_SECONDS` is how much the clock is ahead, `CHAOS_LEASE_SECONDS` how long a claim stands.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from tidegate.application import create_app
from tidegate.idempotency.fault_points import FaultPoint
from tidegate.settings import Settings
from tidegate.telemetry import configure_logging

PR_SET_PDEATHSIG = 1
FAULTS = Path(os.environ["CHAOS_FAULTS"])
AHEAD_SECONDS = int(os.environ["CHAOS_CLOCK_SECONDS"])


def strike(point: FaultPoint) -> None:
    """Send this process the signal that is waiting at `point`, once: whichever request comes first takes it."""
    armed = FAULTS / point
    with suppress(FileNotFoundError):
        # Read before it is renamed: the test removes it then.
        number = signal.Signals[armed.read_text()]
        armed.rename(FAULTS / f"victim-{os.getpid()}")
        os.kill(os.getpid(), number)


# A worker that is asleep when its master dies would sleep for ever, and keep the port.
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

if AHEAD_SECONDS:
    true_time = time.time
    time.time = lambda: true_time() + AHEAD_SECONDS

settings = Settings.from_environment(os.environ)
configure_logging(settings.log_level)
app = create_app(settings, reached=strike, lease_seconds=int(os.environ["CHAOS_LEASE_SECONDS"]))
