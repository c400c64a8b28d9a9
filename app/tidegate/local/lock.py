"""Who owns a state directory: one run at a time, known by a lock that ends with its process; called by `run.py`."""

import fcntl
import os
from pathlib import Path

from tidegate.local.errors import LocalRunError


class StateLock:
    """The lock of a state directory, held from `acquire` to `release` or the end of the process.

    Args:
        state: The directory; must exist.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._descriptor = -1

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LocalRunError: Another run has it; the text names its process.
        """
        self._descriptor = os.open(self._state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as ex:
            holder = os.read(self._descriptor, 32).decode()
            self.release()
            raise LocalRunError(f"already running in {self._state} (process {holder}); stop it there or choose another --state") from ex
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Give the lock back; without one this does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
