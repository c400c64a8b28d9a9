"""Four worker processes on one Redis, against an exact log of what was granted: no trailing window ever holds more than its limit.

The oracle knows nothing of vectors: it adds up grants by the instants that Redis gave them.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import Valkey

SECONDS = 4.0
EDITED_SECONDS = 1.5
WORKER = Path(__file__).with_name("worker.py")
Windows = Sequence[tuple[str, int, str, str]]
TIERS: dict[str, tuple[Windows, Windows]] = {
    "a": (
        [("second", 40, "1s", "Requests"), ("work", 120, "2s", "Cost"), ("long", 110, "1h", "Cost")],
        [("second", 25, "1s", "Requests"), ("work", 60, "1s", "Cost"), ("long", 140, "2h", "Cost")],
    ),
    "b": (
        [("second", 9, "1s", "Requests"), ("few", 14, "2s", "Requests"), ("long", 16, "1h", "Requests")],
        [("second", 7, "1s", "Requests"), ("few", 12, "2s", "Requests"), ("long", 23, "2h", "Requests")],
    ),
}
"""Before and after an edit. All windows refuse somebody: the first have sub-windows, those of `b` remember every request."""
LOOSE = [("second", 400, "1s", "Requests"), ("work", 900, "1s", "Cost"), ("long", 10**6, "1h", "Cost")]

Grant = tuple[float, int, int]
"""Instant in microseconds, requests, cost of each."""


class Trace(NamedTuple):
    """All grants by identity, in the order of Redis; when the tiers were edited; the windows (identity, name) that refused somebody."""

    grants: dict[str, list[Grant]]
    edited_at: float
    met: set[tuple[str, str]]


def spec(windows: Windows) -> dict[str, object]:
    return {"windows": [dict(zip(("name", "limit", "period", "unit"), window, strict=True)) for window in windows]}


def run(valkey: Valkey, folder: Path, scenario: str, tiers: Mapping[str, Sequence[Windows]], *, kill_one: bool) -> Trace:
    (folder / "tiers.json").write_text(json.dumps({key: [spec(windows) for windows in pair] for key, pair in tiers.items()}))
    command = [sys.executable, str(WORKER), valkey.url, scenario, str(folder / "tiers.json")]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    until = time.time() + SECONDS
    edited_at = until - EDITED_SECONDS
    for worker in workers:
        worker.stdin.write(f"{edited_at} {until}\n")
        worker.stdin.flush()
    if kill_one:
        time.sleep(SECONDS / 2)
        workers[0].send_signal(signal.SIGKILL)
    grants: dict[str, list[Grant]] = {}
    met: set[tuple[str, str]] = set()
    for worker in workers:
        for line in whole_lines(worker.communicate(timeout=SECONDS + 30)[0]):
            match json.loads(line):
                case [key, name]:
                    met.add((key, name))
                case [at, key, count, cost]:
                    grants.setdefault(key, []).append((at, count, cost))
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL if kill_one else 0, 0, 0, 0]
    return Trace({key: sorted(found) for key, found in grants.items()}, edited_at, met)


def whole_lines(text: str) -> Iterator[str]:
    """All but the last line of a worker that was killed in the middle of it."""
    yield from (line for line in text.splitlines(keepends=True) if line.endswith("\n"))


def excess(grants: Sequence[Grant], unit: str, period_seconds: float, limit: int) -> int:
    """By how much the fullest trailing window passes the limit."""
    worst, held, oldest = -limit, 0, 0
    for at, count, cost in grants:
        held += count * (cost if unit == "Cost" else 1)
        while grants[oldest][0] <= at - period_seconds * 1e6:
            held -= grants[oldest][1] * (grants[oldest][2] if unit == "Cost" else 1)
            oldest += 1
        worst = max(worst, held - limit)
    return worst


@pytest.mark.parametrize("scenario", ["poisson", "bursts", "edges", "saturating"])
def test_no_trailing_window_ever_holds_more_than_its_limit(valkey: Valkey, tmp_path: Path, scenario: str) -> None:
    """RL-10, RL-14: also while the tier is edited, and a worker is killed in the middle of a batch."""
    grants, edited_at, met = run(valkey, tmp_path, scenario, TIERS, kill_one=True)

    for key, (before, after) in TIERS.items():
        for (name, limit, period, unit), (_, edited, new_period, _) in zip(before, after, strict=True):
            seconds = min({"s": 1, "h": 3600}[text[-1]] * int(text[:-1]) for text in (period, new_period))
            # Over the edit, the larger of both limits and the shorter of both periods hold; each edit of a period refilled nothing.
            assert excess(grants[key], unit, seconds, max(limit, edited)) <= 0, (scenario, key, name)
        late = [grant for grant in grants[key] if grant[0] > (edited_at + 0.3) * 1e6]
        assert excess(late, "Requests", 1, after[0][1]) <= 0
    # No window was kept because nobody came near it; who comes only as a second turns need not meet them all.
    assert scenario == "edges" or met == {(key, name) for key, (before, _) in TIERS.items() for name, *_ in before}


def test_a_saturated_limit_is_used_but_for_the_stated_share(valkey: Valkey, tmp_path: Path) -> None:
    """At least 10/11 of the limit, less one percent, when callers never pause."""
    grants, *_ = run(valkey, tmp_path, "saturating", dict.fromkeys("ab", (LOOSE, LOOSE)), kill_one=False)

    for found in grants.values():
        seconds = (found[-1][0] - found[0][0]) / 1e6
        used = [sum(count for _, count, _ in found) / 400, sum(count * cost for _, count, cost in found) / 900]
        # The last window that was begun is full from its start.
        assert max(used) >= (10 / 11 - 0.01) * seconds, (used, seconds)
