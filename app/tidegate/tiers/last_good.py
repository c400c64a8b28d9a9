"""The file that holds the last tiers a worker enforced, for a start while Redis is away; called by `source.py`."""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from tidegate.contract.codec import encode_tier
from tidegate.contract.errors import TidegateError
from tidegate.tiers.snapshot import Documents

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

AGAIN_SECONDS = 10.0
"""Pause after a file that was not taken: thousands of tiers cost a tenth of a second to write."""


class LastGoodError(TidegateError):
    """The file cannot be written, or what it holds cannot be used."""


class LastGood:
    """The file, or none if `path` is None. Trouble with it is logged and stops nothing: a worker enforces its tiers all the same."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = Documents()
        self._is_failing = False
        self._again_at = 0.0

    def recall(self) -> Documents:
        """What the file holds; nothing if it cannot be used."""
        if self._path:
            try:
                self._kept = load(self._path)
            except LastGoodError as ex:
                log.warning("last good tiers not read", reason=str(ex))
        return self._kept

    async def keep(self, documents: Documents) -> None:
        """Have the file hold `documents`; what it does not take is tried again, at a call after `AGAIN_SECONDS`."""
        if self._path is None or documents is self._kept or time.monotonic() < self._again_at:
            return
        try:
            await asyncio.to_thread(save, self._path, documents)
        except LastGoodError as ex:
            if not self._is_failing:
                log.warning("last good tiers not saved, trying again", reason=str(ex))
            self._is_failing, self._again_at = True, time.monotonic() + AGAIN_SECONDS
            return
        if self._is_failing:
            log.info("last good tiers saved again", revision=documents.revision)
        self._kept, self._is_failing = documents, False


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
