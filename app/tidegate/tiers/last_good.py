"""The file that holds the last tiers a worker enforced, for a start while Redis is away; called by `source.py`."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.contract.codec import encode_tier
from tidegate.contract.errors import TidegateError
from tidegate.tiers.snapshot import Documents


class LastGoodError(TidegateError):
    """The file cannot be written, or what it holds cannot be used."""


def save(path: Path, documents: Documents) -> None:
    """Replace the file whole, so that a reader, a crash or a full disk never leaves half of it.

    Raises:
        LastGoodError: It cannot be written.
    """
    texts = {name: encode_tier(document) for name, document in documents.by_name.items()}
    content = json.dumps({"revision": documents.revision, "tiers": texts})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for each writer: the workers of a pod share the directory.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file, _removed_on_error(file.name):
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
    except OSError as ex:
        raise LastGoodError(f"{path}: {ex.strerror}") from ex


@contextmanager
def _removed_on_error(name: str) -> Iterator[None]:
    try:
        yield
    except OSError:
        Path(name).unlink()
        raise


def load(path: Path) -> Documents:
    """The documents saved last; none if there is no file yet.

    Raises:
        LastGoodError: The file cannot be read or is not one that `save` wrote.
    """
    try:
        content = json.loads(path.read_bytes())
        return Documents().follow(int(content["revision"]), dict(content["tiers"]))
    except FileNotFoundError:
        return Documents()
    except (OSError, ValueError, KeyError, TypeError) as ex:
        raise LastGoodError(f"{path}: {ex}") from ex
