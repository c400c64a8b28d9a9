"""The operator without a cluster: `python -m tidegate_operator.directory DIR [LANES]` enforces the manifests in DIR and follows its edits.

LANES is the address of dedicated cache lanes that are run by somebody else, a URL that may hold `{tier}` and `{region}`.

A mounted ConfigMap is followed too, as its links change within DIR. What a link out of DIR leads to is looked at by the slow resync alone.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from watchfiles import awatch

from tidegate.contract.errors import TidegateError
from tidegate_operator.desired import DesiredTier
from tidegate_operator.errors import DirectoryError, SourceUnavailableError
from tidegate_operator.logs import configure_logging
from tidegate_operator.manifests import ManifestDirectory
from tidegate_operator.publisher import Publisher
from tidegate_operator.reconciler import Reconciler
from tidegate_operator.settings import Settings
from tidegate_operator.status import is_enforced, newly_superseded, summary

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

STEP_MILLISECONDS = 50
"""Changes closer together than this are one: editors remove and make a file anew when they save."""


class EnforcementLog:
    """Says in one line when a tier's content is enforced everywhere, and when regions keep a newer one; once for each generation.

    It takes the statuses of the reconciler.
    """

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    async def report(self, tier: DesiredTier, status: Mapping[str, Any]) -> None:
        """Log the line when it is news."""
        if trouble := newly_superseded(tier, status):
            sentence = f"tier {tier.name}: {trouble}, or start the operator again once its clock is right"
            log.warning(sentence, tier=tier.name, generation=tier.generation)
        if not is_enforced(status) or self._said.get(tier.name) == tier.generation:
            return
        self._said[tier.name] = tier.generation
        seconds = time.monotonic() - tier.observed_at
        sentence = f"{summary(tier.name, status)} after {seconds:.2f} s"
        log.info(sentence, tier=tier.name, generation=tier.generation)


async def serve(directory: Path, publishers: list[Publisher], stop: asyncio.Event, *, lanes: str = "") -> None:
    """Enforce the manifests in `directory` until `stop` is set.

    Raises:
        DirectoryError: At the start the directory is missing or holds no manifest; nothing was changed in any region.
    """
    source = ManifestDirectory(directory, lanes)
    try:
        await source.list()
    except SourceUnavailableError as ex:
        raise DirectoryError(str(ex)) from ex
    reconciler = Reconciler(publishers, source, EnforcementLog())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reconciler.run()), group.create_task(_follow(directory, reconciler, stop))]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        for publisher in publishers:
            await publisher.aclose()


def main() -> int:
    """The command; returns its exit code: 0 after SIGTERM or SIGINT, 2 when the settings or the directory are unusable."""
    if len(sys.argv) not in (2, 3):
        print("usage: python -m tidegate_operator.directory DIR [LANES]", file=sys.stderr)  # noqa: T201 - no log is configured yet
        return 2
    try:
        settings = Settings.from_environment(os.environ)
        configure_logging(settings.log_level, settings.log_format)
        asyncio.run(_serve_until_signalled(Path(sys.argv[1]).absolute(), settings.publishers(), *sys.argv[2:]))
    except TidegateError as ex:
        print(f"tidegate operator: {ex}", file=sys.stderr)  # noqa: T201 - for the person who started it
        return 2
    return 0


async def _serve_until_signalled(directory: Path, publishers: list[Publisher], lanes: str = "") -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(directory, publishers, stop, lanes=lanes)


async def _follow(directory: Path, reconciler: Reconciler, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await _follow_until_replaced(directory, reconciler, stop)


async def _follow_until_replaced(directory: Path, reconciler: Reconciler, stop: asyncio.Event) -> None:
    # The parent is watched too: a directory that is made anew is another one to the system, and needs another watch.
    watched, inode = [path for path in (directory, directory.parent) if path.is_dir()], _inode(directory)
    async for changes in awatch(*watched, stop_event=stop, step=STEP_MILLISECONDS, recursive=False, watch_filter=None):
        if all(Path(path).parent != directory and Path(path) != directory for _, path in changes):
            continue
        try:
            await reconciler.resync()
        except SourceUnavailableError as ex:
            log.error("the manifests cannot be read, the known tiers stay", cause=str(ex))
        if _inode(directory) != inode:
            return


def _inode(directory: Path) -> int:
    try:
        return directory.stat().st_ino
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
