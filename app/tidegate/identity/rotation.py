"""The steps by which one identity key replaces another, on a directory of key files; called by `cli.py`. See docs/rotation.md."""

import os
import secrets
import tempfile
from pathlib import Path

from tidegate.contract.errors import TidegateError

KEY, OTHER_KEY = "identity.key", "identity.other.key"
SECRET_BYTES = 32


class RotationError(TidegateError):
    """The step cannot be taken now, or a file cannot be read or written."""


def begin(directory: Path) -> None:
    """Make a new key and lay it beside the one in use.

    Raises:
        RotationError: A replacement is under way, or there is no key to replace.
    """
    key, other = directory / KEY, directory / OTHER_KEY
    # Two equal files are what a switch that was cut off leaves; the new key was never in use then.
    if other.exists() and _read(other) != _read(key):
        raise RotationError(f"{other} exists: a replacement is under way; switch, or finish it first")
    _read(key)
    _write(other, secrets.token_urlsafe(SECRET_BYTES).encode())


def switch(directory: Path) -> None:
    """Exchange both keys.

    Raises:
        RotationError: There are not two different keys.
    """
    key, other = directory / KEY, directory / OTHER_KEY
    old, new = _read(key), _read(other)
    if old == new:
        raise RotationError(f"{key} and {other} hold the same key: begin again")
    # In this order the key in use is never lost, wherever this ends.
    _write(other, old)
    _write(key, new)


def finish(directory: Path) -> None:
    """Forget the other key.

    Raises:
        RotationError: There is none.
    """
    _read(directory / OTHER_KEY)
    (directory / OTHER_KEY).unlink()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as ex:
        raise RotationError(f"{path}: {ex.strerror}") from ex


def _write(path: Path, secret: bytes) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as ex:
        raise RotationError(f"{path}: {ex.strerror}") from ex
