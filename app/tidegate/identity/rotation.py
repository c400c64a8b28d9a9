"""The steps by which one key replaces another, on a directory of key files; called by `commands/keys.py`. See docs/rotation.md."""

import os
import secrets
import tempfile
from pathlib import Path

from tidegate.contract.errors import TidegateError

REPLACEABLE = ("identity", "result")
"""Keys of which workers can know two."""
SECRET_BYTES = 32


class RotationError(TidegateError):
    """The step cannot be taken now, or a file cannot be read or written."""


def files(directory: Path, name: str) -> tuple[Path, Path]:
    """The file of the key `name` (of `REPLACEABLE`) and, while it is being replaced, that of the other one."""
    return directory / f"{name}.key", directory / f"{name}.other.key"


def begin(directory: Path, name: str) -> None:
    """Make a new key and lay it beside the one in use.

    Raises:
        RotationError: A replacement is under way, or there is no key to replace.
    """
    key, other = files(directory, name)
    # Two equal files are what a switch that was cut off leaves; the new key was never in use then.
    if other.exists() and _read(other) != _read(key):
        raise RotationError(f"{other} exists: a replacement is under way; switch, or finish it first")
    _read(key)
    _write(other, secrets.token_urlsafe(SECRET_BYTES).encode())


def switch(directory: Path, name: str) -> None:
    """Exchange both keys.

    Raises:
        RotationError: There are not two different keys.
    """
    key, other = files(directory, name)
    old, new = _read(key), _read(other)
    if old == new:
        raise RotationError(f"{key} and {other} hold the same key: begin again")
    # In this order the key in use is never lost, wherever this ends.
    _write(other, old)
    _write(key, new)


def finish(directory: Path, name: str) -> None:
    """Forget the other key.

    Raises:
        RotationError: There is none.
    """
    _, other = files(directory, name)
    _read(other)
    other.unlink()


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
