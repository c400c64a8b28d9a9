"""gunicorn's configuration: `gunicorn -c python:tidegate.server.gunicorn_config tidegate.asgi:app`.

Bind address and number of workers come from the command line.
"""

from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - gunicorn makes a private file in it

worker_class = "tidegate.server.worker.DrainingWorker"
# Above the drain plus the longest request, below the pod's terminationGracePeriodSeconds.
graceful_timeout = 25
# A worker that has not turned its event loop for this long is killed.
timeout = 30
# An edge keeps connections; closing them earlier than it does would race with its next request.
keepalive = 75
# The heartbeat file must not be on a disk, where there is memory: a slow disk would kill workers.
worker_tmp_dir = str(_MEMORY) if _MEMORY.is_dir() else None
# A read-only root file system has no place for it, and nobody uses it.
control_socket_disable = True
