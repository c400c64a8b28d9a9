"""Which commands there are, where."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from tidegate.cli import main

EVERYWHERE = ["adopt-store", "cache", "keys", "mutations", "smoke", "usage"]
OF_THE_LOCAL_RUN = ["demo", "region", "token", "up"]


def test_on_a_laptop_there_are_also_those_of_the_local_run() -> None:
    assert sorted(main.commands) == sorted(EVERYWHERE + OF_THE_LOCAL_RUN)


def test_an_api_pod_has_none_that_would_need_what_it_lacks() -> None:
    """Its image has the extra `api` alone."""
    program = "import sys; sys.modules['supervisor'] = None; from tidegate.cli import main; print(*sorted(main.commands))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout.split(), done.stderr) == (EVERYWHERE, "")


@pytest.mark.parametrize("arguments", [
    ["usage", "--tenant", "acme", "--client", "demo", "--tier", "pro"],
    ["mutations", "show", "--tenant", "acme", "--client", "demo", "--key", "k"],
    ["cache", "purge", "--tenant", "acme"],
    ["adopt-store"],
])  # fmt: skip
def test_where_nothing_is_named_and_nothing_runs_the_way_out_is_told(arguments: list[str], tmp_path) -> None:
    done = CliRunner().invoke(main, [*arguments, "--state", str(tmp_path)])

    assert done.exit_code == 2
    assert f"no local run in {tmp_path}; for another place give --" in done.output
