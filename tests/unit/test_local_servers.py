"""What a local run tells Envoy and supervisord, and what it makes of their answers."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from tidegate.local.edge import bootstrap
from tidegate.local.errors import ExpectationError, LocalRunError
from tidegate.local.keys import Keys
from tidegate.local.layout import Layout
from tidegate.local.leftovers import end_leftovers, find_leftovers, mark
from tidegate.local.programs import Capacity, Program, programs, write_configuration
from tidegate.local.run import Run
from tidegate.local.stage import expect
from tidegate.local.supervision import Process, Supervision, configuration
from tidegate.local.traffic import Outcome, longest_gap


@pytest.mark.parametrize("index", [0, 1])
def test_envoy_accepts_the_bootstrap_of_every_edge(index: int, tmp_path: Path) -> None:
    layout = Layout.at(tmp_path, tmp_path, 8080)
    path = tmp_path / "edge.json"
    path.write_text(json.dumps(bootstrap(layout.regions[index], layout.regions)))

    command = [str(Path(sys.executable).parent / "envoy"), "--mode", "validate", "-c", str(path), "--log-level", "warning"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)

    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr


def test_an_edge_prefers_its_own_region(tmp_path: Path) -> None:
    frankfurt, dublin = Layout.at(tmp_path, tmp_path, 8080).regions

    [cluster] = bootstrap(dublin, (frankfurt, dublin))["static_resources"]["clusters"]

    endpoints = cluster["load_assignment"]["endpoints"]
    assert [(entry["locality"]["region"], entry["priority"]) for entry in endpoints] == [("dublin", 0), ("frankfurt", 1)]


def test_every_file_that_a_program_reads_is_written(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path, tmp_path, 8080)
    layout.make_directories()

    write_configuration(layout)

    names = [program.name for program in programs(layout, Keys(layout.keys), Capacity())]
    assert names == [
        "store-redis", "payment-provider",
        "frankfurt-redis", "frankfurt-cache", "frankfurt-lane-enterprise", "frankfurt-api", "frankfurt-edge",
        "dublin-redis", "dublin-cache", "dublin-lane-enterprise", "dublin-api", "dublin-edge", "operator",
    ]  # fmt: skip
    assert json.loads(layout.operator_regions.read_text()).keys() == {"frankfurt", "dublin"}
    assert all(region.edge_config.exists() for region in layout.regions)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Sockets bear no long paths, and pytest's own are long when tests run side by side."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_supervisord_reads_back_odd_characters_as_they_were(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of a user's directory may hold blanks, quotes and per-cent signs."""
    layout = Layout.at(short_path / 'it\'s 50% "off"', short_path, 8080)
    layout.make_directories()
    program = Program("odd", ("/bin/echo", "a b", "100%", "it's"), {"NAME": 'x, "y" = z'})
    path = layout.state / "supervisord.conf"
    with path.open("w") as file:
        configuration(layout, [program]).write(file)

    monkeypatch.chdir(layout.state)
    options = ServerOptions()
    options.realize(["-c", str(path), "-n"])

    [group] = options.process_group_configs
    [process] = group.process_configs
    assert shlex.split(process.command) == ["/usr/bin/env", 'NAME=x, "y" = z', "LOCAL_RUN_PROGRAM=odd", "/bin/echo", "a b", "100%", "it's"]
    assert Path(process.stdout_logfile).absolute() == layout.log("odd")


def test_commands_to_a_run_that_is_not_there_say_so(tmp_path: Path) -> None:
    with pytest.raises(LocalRunError, match=r"nothing runs in .*: start it with `tidegate up`"):
        Supervision(tmp_path / "supervisor.sock").processes()


RUNS = Process("api", pid=1, is_running=True, is_wanted=True, exit_status=0, ended_at=0)
CRASHED = replace(RUNS, pid=0, is_running=False, exit_status=-9, ended_at=100)
STARTED_AGAIN = replace(RUNS, pid=2, ended_at=100)
STOPPED = replace(CRASHED, is_wanted=False, exit_status=0)
WAITS = replace(STOPPED, ended_at=0)


@pytest.mark.parametrize(
    ("looks", "crashes"),
    [
        ([RUNS, CRASHED, CRASHED, STARTED_AGAIN, STARTED_AGAIN], 1),
        ([RUNS, STARTED_AGAIN, STARTED_AGAIN], 1),
        ([RUNS, CRASHED, STARTED_AGAIN, CRASHED, CRASHED], 2),
        ([RUNS, CRASHED, STARTED_AGAIN, replace(STARTED_AGAIN, pid=3)], 2),
        ([RUNS, STARTED_AGAIN, CRASHED], 2),
        ([CRASHED, CRASHED], 1),
        ([WAITS, replace(CRASHED, ended_at=0), replace(CRASHED, ended_at=0)], 1),
        ([WAITS, RUNS, STOPPED, STOPPED, STARTED_AGAIN], 0),
    ],
    ids=[
        "noticed",
        "started again at once",
        "twice in a second",
        "twice, and started again at once",
        "and unnoticed at first",
        "before the first look",
        "not started",
        "as asked",
    ],
)
def test_each_crash_is_told_once_whenever_somebody_looks(looks: list[Process], crashes: int) -> None:
    """supervisord tells ends apart by the second."""
    assert sum(now.has_crashed_since(before) for before, now in pairwise([None, *looks])) == crashes


def test_leftovers_are_found_by_their_mark_and_ended(tmp_path: Path) -> None:
    ours = subprocess.Popen(["/bin/sleep", "60"], env=mark(tmp_path))
    others = subprocess.Popen(["/bin/sleep", "60"], env=mark(tmp_path / "another"))
    try:
        # The kernel shows a new program's environment a moment after it runs.
        deadline = time.monotonic() + 5
        while not find_leftovers(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert find_leftovers(tmp_path) == [ours.pid]

        assert end_leftovers(tmp_path) == 1

        assert ours.wait(5) == -9
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()


def test_a_missing_tiers_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalRunError, match=r"no directory .*absent with tier manifests: .* --tiers"):
        Run(Layout.at(tmp_path, tmp_path / "absent", 0)).__enter__()


def test_an_empty_tiers_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalRunError, match=r"no tier manifest \(\*\.yaml\) in "):
        Run(Layout.at(tmp_path / "state", tmp_path, 0)).__enter__()


def test_the_gap_is_the_longest_time_without_a_success_after_the_moment() -> None:
    """Failures do not shorten it, and what happened before does not count."""
    outcomes = [Outcome(0.0, "a", ""), Outcome(5.0, "a", ""), Outcome(6.0, "", "broken"), Outcome(7.0, "b", ""), Outcome(7.5, "b", "")]

    assert longest_gap(outcomes, 5.5) == 2.0


def test_no_success_after_the_moment_is_an_endless_gap() -> None:
    assert longest_gap([Outcome(0.0, "a", "")], 1.0) == float("inf")


def test_a_failed_expectation_says_what_was_expected_and_found() -> None:
    with pytest.raises(ExpectationError, match="expected: a balance of 500; found: 1000"):
        expect(False, "a balance of 500", 1000)
