"""What readiness makes of a store that ails, is lost or is not to be trusted."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from tidegate.store import health
from tidegate.store.errors import StoreAilingError, StoreMisconfiguredError, StoreUnavailableError
from tidegate.store.health import StoreHealth


class Checked:
    """A store whose checks end one after the other as they are told to, the last one again and again."""

    def __init__(self, *results: Exception | None) -> None:
        self._results = list(results)
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        result = self._results.pop(0) if len(self._results) > 1 else self._results[0]
        if result:
            raise result


async def after(eventually: Callable, monkeypatch: pytest.MonkeyPatch, *results: Exception | None) -> tuple[bool, list[str]]:
    """Whether the store is usable after these checks, and what was logged."""
    for name, seconds in {"CHECK_SECONDS": 0.001, "RETRY_SECONDS": 0.001, "START_SECONDS": 0.01}.items():
        monkeypatch.setattr(health, name, seconds)
    store = Checked(*results)
    watch = StoreHealth(store)  # type: ignore[arg-type]  # only checks are asked for
    with capture_logs() as logs:
        await watch.start()
        await eventually(lambda: store.checks > len(results))
        await watch.stop()
    return watch.is_usable, [entry["log_level"] for entry in logs]


@pytest.mark.parametrize(
    ("results", "usable"),
    [
        ([None], True),
        ([StoreUnavailableError("gone")], True),
        ([StoreMisconfiguredError("loses")], False),
        ([StoreMisconfiguredError("loses"), StoreUnavailableError("gone")], False),
        ([StoreMisconfiguredError("loses"), None], True),
        ([StoreMisconfiguredError("loses"), StoreAilingError("full")], True),
        ([RuntimeError("a fault of ours"), None], True),
    ],
)
async def test_only_a_store_that_loses_results_makes_a_worker_unready(eventually, monkeypatch, results, usable):
    """One that does not answer is every region's: without readiness reads would stop too."""
    is_usable, _ = await after(eventually, monkeypatch, *results)

    assert is_usable == usable


async def test_a_store_that_ails_is_a_warning_each_time(eventually, monkeypatch):
    _, levels = await after(eventually, monkeypatch, StoreAilingError("nearly full"))

    assert set(levels) == {"warning"}


async def test_a_store_that_loses_results_is_told_once(eventually, monkeypatch):
    _, levels = await after(eventually, monkeypatch, StoreMisconfiguredError("loses"))

    assert levels == ["error"]


async def test_a_worker_that_starts_waits_until_the_store_answers(monkeypatch):
    """A network that lets a new pod through a moment later costs no request."""
    monkeypatch.setattr(health, "RETRY_SECONDS", 0.001)
    store = Checked(StoreUnavailableError("refused"), StoreUnavailableError("refused"), None)
    watch = StoreHealth(store)  # type: ignore[arg-type]  # only checks are asked for

    await watch.start()

    assert store.checks == 3
    await watch.stop()
