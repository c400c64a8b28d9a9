"""The local run, for real: two regions of Redis, workers and Envoy, a store and the operator."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.local.conftest import START_SECONDS

from tidegate.local.client import Answer, Client
from tidegate.local.layout import REGION_NAMES
from tidegate.local.leftovers import find_leftovers
from tidegate.local.traffic import Traffic

PATH = "/v1/credits"


def get(port: int, token: str, path: str = PATH) -> Answer:
    with Client(port, token) as client:
        return client.get(path)


def poll(condition: Callable[[], object], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def processes_of(state: Path) -> list[str]:
    """Command lines that name the directory, except that of `tidegate up` itself: found without the means that the run has."""
    lines = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines[entry.name] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return [line for line in lines.values() if f"{state}/" in line]


def process_id(run, name: str) -> int:
    return next(process.pid for process in run.supervision.processes() if process.name == name)


def test_it_says_where_everything_is_and_what_to_try(shared_run) -> None:
    output = shared_run.wait_for("Ctrl-C stops everything")

    assert len(shared_run.ports("edge")) == len(shared_run.ports("API")) == 2
    assert all(f"\n  {tier}" in output for tier in ("free", "pro", "enterprise"))
    assert "region kill frankfurt" in output
    assert output.count("curl -i") == 3


def test_each_edge_serves_from_its_own_region(shared_run) -> None:
    answers = [get(port, shared_run.token()) for port in shared_run.ports("edge")]

    assert [(answer.status, answer.region) for answer in answers] == [(200, "frankfurt"), (200, "dublin")]


def test_a_printed_token_works_in_every_region(shared_run) -> None:
    """Stateless: any region answers alike, without a session."""
    printed = next(line.split()[1] for line in shared_run.output.splitlines() if line.startswith("  pro "))

    statuses = [get(port, printed).status for port in shared_run.ports("API")]

    assert statuses == [200, 200]


def test_the_token_command_mints_for_a_client_of_choice(shared_run) -> None:
    token = shared_run.command("token", "--tier", "pro", "--client", "somebody").stdout.strip()

    answer = get(shared_run.ports("edge")[0], token, "/v1/usage")

    assert (answer.status, answer.json()["tier"]) == (200, "pro")


def test_usage_of_the_run_is_found_without_being_told_where(shared_run) -> None:
    for port in shared_run.ports("API"):
        get(port, shared_run.token())

    shown = shared_run.command("usage", "--tenant", "acme", "--client", "demo", "--tier", "enterprise")

    lines = shown.stdout.splitlines()
    assert [line for line in lines if "under tier enterprise" in line] == [f"{name}: demo under tier enterprise" for name in REGION_NAMES]
    minutes = [line.split() for line in lines if line.startswith("  minute")]
    assert len(minutes) == 2
    assert all(int(minute[3]) >= 1 for minute in minutes)


def test_each_region_has_a_lane_for_the_enterprise_tier_that_is_purged_by_name(shared_run) -> None:
    """The operator publishes its address, and the workers of that region alone fill it."""
    port, token = shared_run.ports("API")[0], shared_run.token()
    with Client(port, token) as client:
        entry = client.post("/v1/credits/purchases", {"amount": 500}, "a-purchase-to-be-read").headers["location"]

    asked = [get(port, token, entry).headers["cache-status"] for _ in range(2)]
    purged = shared_run.command("cache", "purge", "--tenant", "acme", "--uri", entry).stdout
    asked.append(get(port, token, entry).headers["cache-status"])

    assert [status.split(";")[:2] for status in asked] == [
        ["Dedicated", " fwd=uri-miss"],
        ["Dedicated", " hit"],
        ["Dedicated", " fwd=uri-miss"],
    ]
    assert "frankfurt: Dedicated lane of enterprise: 1 path removed\n" in purged
    assert "dublin: Dedicated lane of enterprise: 0 paths removed\n" in purged


def test_every_file_is_for_the_owner_alone(shared_run) -> None:
    """Nobody else gets into the directory, and the keys would stay closed to others if it were moved."""
    keys = [shared_run.state / "keys", *(shared_run.state / "keys").rglob("*")]

    assert shared_run.state.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in keys} >= {"issuer.pem", "identity.key", "idempotency.key", "result.key"}
    assert [path for path in keys if path.stat().st_mode & 0o077] == []


def test_a_second_run_in_the_directory_is_refused(shared_run, tiers: Path) -> None:
    second = shared_run.command("up", "--port", "0", "--tiers", str(tiers))

    assert second.returncode == 1
    assert "already running in" in second.stderr
    assert get(shared_run.ports("edge")[0], shared_run.token()).status == 200


def test_a_killed_region_costs_no_request(shared_run) -> None:
    """Through either edge, under traffic without a pause, with one and the same token; and it takes traffic again when it is back."""
    with Traffic(shared_run.ports("edge"), shared_run.token(), PATH) as traffic:
        poll(lambda: traffic.least_since(0) >= 20)
        killed = shared_run.command("region", "kill", "frankfurt")
        killed_at = time.monotonic()
        poll(lambda: traffic.least_since(killed_at) >= 300)
        started_at = time.monotonic()
        shared_run.command("region", "start", "frankfurt")
        poll(lambda: any(outcome.region == "frankfurt" and outcome.at > started_at + 1 for outcome in traffic.all()))

    assert killed.returncode == 0
    assert traffic.problems() == []


def test_a_region_without_its_redis_sends_its_requests_elsewhere(shared_run) -> None:
    """The API lives, but cannot decide: it answers 503, and the edge asks the other region."""
    edge, api = shared_run.ports("edge")[0], shared_run.ports("API")[0]
    poll(lambda: get(edge, shared_run.token()).region == "frankfurt")
    with Traffic([edge], shared_run.token(), PATH) as traffic:
        poll(lambda: traffic.least_since(0) >= 20)
        shared_run.supervision.kill("frankfurt-redis")
        poll(lambda: get(api, "", "/readyz").status == 503)
        poll(lambda: traffic.all()[-1].region == "dublin")
        shared_run.supervision.start("frankfurt-redis")
        poll(lambda: traffic.all()[-1].region == "frankfurt")

    assert traffic.problems() == []


def test_a_crashed_process_is_named_with_its_last_lines(shared_run) -> None:
    log = shared_run.state / "logs/operator.log"
    os.kill(process_id(shared_run, "operator"), signal.SIGKILL)

    shared_run.wait_for("operator was killed by a signal")
    last_line = log.read_text().splitlines()[-1]
    shared_run.wait_for(f"  | {last_line}\n")

    report = shared_run.output.partition("operator was killed by a signal")[2]
    assert report.startswith(f". Its last lines ({log}):\n  | ")
    assert f"\n  | {last_line}\n" in report
    assert get(shared_run.ports("edge")[0], shared_run.token()).status == 200
    shared_run.supervision.start("operator")


def test_a_process_that_died_and_was_started_before_anybody_looked_is_named(shared_run) -> None:
    """A look every half second must not miss a crash."""
    shared_run.supervision.kill("payment-provider")
    shared_run.supervision.start("payment-provider")

    output = shared_run.wait_for("\npayment-provider ")

    # Which of both depends on whether a look fell between the two commands.
    assert output.partition("\npayment-provider ")[2].startswith(
        ("ended and was started again. Its last lines", "was killed by a signal. Its last lines")
    )


def test_a_refused_manifest_is_told_at_the_terminal(shared_run) -> None:
    """Nobody looks into a log for what seems to work."""
    bad = shared_run.tiers / "bad.yaml"
    bad.write_text("apiVersion: tidegate.dev/v1alpha1\nkind: RateLimitTier\nmetadata: {name: bad}\nspec: {windows: [{name: a, limit: 0}]}")

    shared_run.wait_for("spec.windows[0].period: is required")
    output = shared_run.wait_for("spec.windows[0].limit: 0 is outside")
    bad.unlink()

    assert "The operator refuses: " in output


def test_workers_that_lost_their_master_do_not_keep_the_port(shared_run) -> None:
    """The crash is reported, and the advice that is given works though its orphans still serve."""
    edge = shared_run.ports("edge")[1]
    os.kill(process_id(shared_run, "dublin-api"), signal.SIGKILL)
    shared_run.wait_for("dublin-api was killed by a signal")

    started = shared_run.command("region", "start", "dublin")

    assert started.returncode == 0, started.stderr
    poll(lambda: get(edge, shared_run.token()).region == "dublin")


def test_ctrl_c_leaves_nothing_behind(start_run) -> None:
    run = start_run()
    ports = [*run.ports("edge"), *run.ports("API")]

    status = run.end(signal.SIGINT)

    assert status == 0, run.output
    assert "Stopped." in run.output
    assert processes_of(run.state) == find_leftovers(run.state) == []
    assert list(run.state.rglob("*.sock*")) == []
    assert all(is_free(port) for port in ports)


def test_ctrl_c_during_the_start_leaves_nothing_behind(start_run) -> None:
    run = start_run()
    poll(lambda: find_leftovers(run.state))

    status = run.end(signal.SIGTERM)

    assert status == 0, run.output
    assert processes_of(run.state) == find_leftovers(run.state) == []


def test_a_killed_run_leaves_nothing_behind(start_run) -> None:
    """SIGKILL of `tidegate up` itself: whoever supervises the servers hears of it, and ends them."""
    run = start_run()
    run.ports("edge")
    # supervisord, two regions of Redis, two lanes, gunicorn with two workers and Envoy, the store, the payment provider, the operator.
    assert len(find_leftovers(run.state)) == 18

    run.end(signal.SIGKILL)

    poll(lambda: not find_leftovers(run.state))
    assert processes_of(run.state) == []


def test_the_run_after_a_killed_one_cleans_up_and_starts(start_run) -> None:
    """SIGKILL of `tidegate up` and of supervisord at once orphans everything."""
    first = start_run()
    first.ports("edge")
    first.process.send_signal(signal.SIGSTOP)
    os.kill(int((first.state / "supervisord.pid").read_text()), signal.SIGKILL)
    first.end(signal.SIGKILL)
    orphans = find_leftovers(first.state)

    second = start_run()

    assert len(orphans) == 17
    assert f"Ended {len(orphans)} processes that an earlier run had left behind" in second.wait_for("Ctrl-C stops everything")
    assert get(second.ports("edge")[0], second.token()).status == 200
    assert second.end() == 0


def test_a_killed_supervisord_ends_the_run_with_nothing_behind(start_run) -> None:
    run = start_run()
    run.ports("edge")

    os.kill(int((run.state / "supervisord.pid").read_text()), signal.SIGKILL)

    assert run.process.wait(30) == 1
    run.wait_for("supervisord has ended")
    assert processes_of(run.state) == find_leftovers(run.state) == []


def test_a_purchase_outlives_a_run(start_run) -> None:
    """The consistent store is durable; the regions' state is rebuilt."""
    first = start_run()
    with Client(first.ports("edge")[0], first.token()) as client:
        assert client.post("/v1/credits/purchases", {"amount": 700}, "outlives-a-run-0001").status == 201
    first.end()

    second = start_run()

    assert get(second.ports("edge")[1], second.token()).json()["balance"] == 700
    assert second.end() == 0


def test_a_taken_port_stops_the_start_before_anything_runs(start_run) -> None:
    port = next(port for port in range(21_001, 29_000, 20) if is_free(port) and is_free(port - 1))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()

        run = start_run("--port", str(port - 1))

        assert run.process.wait(20) == 1
    run.wait_for(f"port {port} is taken (API of frankfurt): stop what listens there or choose others with --port")
    assert find_leftovers(run.state) == []


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0
