"""A gunicorn worker as it is deployed: starts without Redis, drains on SIGTERM, refuses wrong settings with the variable's name."""

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from tests.ports import free_port
from tests.redis.conftest import Start, publish_pro, wait_for

from tidegate.contract import keys
from tidegate.contract.codec import decode_heartbeat

pytestmark = pytest.mark.worker


def wait_until_nobody_listens(port: int, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, f"somebody still listens on port {port}"
        time.sleep(0.02)


async def test_a_stopping_worker_is_unready_first_and_fails_no_request(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any
) -> None:
    """OPS-2: readiness off, serve on, take no more, finish what is in flight, exit."""
    await publish_pro(redis)
    process = start(TIDEGATE_DRAIN_SECONDS="2", TIDEGATE_STORE_URL=durable.url)
    base = f"http://127.0.0.1:{port}"
    wait_for(f"{base}/readyz", 200)
    headers = {"Authorization": f"Bearer {issuer.mint('pro')}"}
    fields = headers | {"Host": "api", "Idempotency-Key": '"0123456789abcdef"', "Content-Type": "application/json", "Content-Length": "13"}
    head = "".join(["POST /v1/credits/purchases HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in fields.items()), "\r\n"])

    with socket.create_connection(("127.0.0.1", port), timeout=10) as in_flight:
        in_flight.sendall(head.encode() + b'{"amount"')
        process.send_signal(signal.SIGTERM)
        stopped = time.monotonic()
        draining = wait_for(f"{base}/readyz", 503)
        with httpx.Client(headers=headers) as client:
            answers = [client.get(f"{base}/v1/tiers/pro")]
            while time.monotonic() < stopped + 1:
                answers.append(client.get(f"{base}/v1/tiers/pro"))
        wait_until_nobody_listens(port)
        time.sleep(0.5)  # a server that does not wait would be gone by then
        in_flight.sendall(b": 5}")
        last = in_flight.makefile("rb").read()
    exit_code = process.wait(10)

    assert draining.json()["failed"] == ["draining"]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["Connection"] for answer in answers} == {"close"}
    assert last.startswith(b"HTTP/1.1 201 ")
    assert last.endswith(b'"balance": 5}')
    assert exit_code == 0


def test_a_quick_stop_is_quick(start: Start, port: int) -> None:
    """SIGINT to gunicorn, as from a terminal, ends the worker without its drain and without a kill."""
    process = start(TIDEGATE_DRAIN_SECONDS="20")
    wait_for(f"http://127.0.0.1:{port}/livez", 200)
    started = time.monotonic()

    process.send_signal(signal.SIGINT)
    process.wait(20)

    assert time.monotonic() - started < 5


BROKEN_API = """
from tidegate.asgi import app

class Broken:
    async def on_post(self, req, resp):
        body, authorization = req.context.body, req.get_header("Authorization")
        raise RuntimeError("bug")

app.add_route("/v1/broken", Broken())
"""


async def test_no_secret_of_a_request_reaches_the_log(start: Start, port: int, redis: Redis, issuer: Any, tmp_path: Path) -> None:
    """LOG-1: a canary in every place that may hold a secret, for a request that is answered, one that is refused and one that fails."""
    await publish_pro(redis)
    (tmp_path / "broken_api.py").write_text(BROKEN_API)
    process = start("broken_api:app", TIDEGATE_DRAIN_SECONDS="0", PYTHONPATH=str(tmp_path))
    base = f"http://127.0.0.1:{port}"
    wait_for(f"{base}/livez", 200)
    token = issuer.mint("pro", tenant="canary-tenant")
    headers = {"Idempotency-Key": '"canary-key-0123456789"', "Content-Type": "application/json", "X-Secret": "canary-header"}

    with httpx.Client(headers=headers | {"Authorization": f"Bearer {token}"}) as client:
        answers = [
            client.post(f"{base}/v1/credits/purchases?q=canary-query", content=b'{"amount": 5, "canary-body": 1}'),
            client.get(f"{base}/v1/credits", headers={"Authorization": f"Bearer {token[:-4]}AAAA"}),
            client.get(f"{base}/v1/credits", headers={"Authorization": "Basic canary-password"}),
            client.post(f"{base}/v1/broken?q=canary-query", content=b'{"canary-body": 1}'),
        ]
    process.terminate()
    process.wait(10)
    written = (tmp_path / "log").read_text()

    assert [answer.status_code for answer in answers] == [422, 401, 401, 500]
    assert [written.count(f'"event":"{event}"') for event in ("request", "refused", "unhandled error")] == [4, 2, 1]
    assert "RuntimeError: bug" in written
    assert "canary" not in written
    assert not any(part in written for part in token.split("."))


def test_workers_without_a_master_stop(start: Start, port: int, valkey: Any) -> None:
    """SIGKILL of the master: orphans would keep the port and serve what nobody replaces any more."""
    process = start(TIDEGATE_DRAIN_SECONDS="0", GUNICORN_CMD_ARGS="--timeout 2")
    base = f"http://127.0.0.1:{port}"
    wait_for(f"{base}/livez", 200)

    process.kill()

    deadline = time.monotonic() + 10
    while True:
        try:
            httpx.get(f"{base}/livez", timeout=1)
        except httpx.TransportError:
            break
        assert time.monotonic() < deadline, "the orphans go on"
        time.sleep(0.05)


def test_a_worker_starts_while_redis_is_away_and_says_that_it_is_not_ready(start: Start, port: int, tmp_path: Path) -> None:
    """OPS-1: Redis loss must not fail liveness, or pods restart in a storm."""
    away = f"unix://{tmp_path}/nothing.sock"
    start(TIDEGATE_REDIS_URL=away, TIDEGATE_STORE_URL=away)
    base = f"http://127.0.0.1:{port}"

    wait_for(f"{base}/livez", 200)
    ready = wait_for(f"{base}/readyz", 503)

    assert {"tiers", "region"} <= set(ready.json()["failed"])


def free_ports_in_a_row(count: int) -> int:
    """The first of them."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def shown_by(port: int) -> dict[str, float]:
    """Values by series; empty while nobody answers."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    except httpx.TransportError:
        return {}
    return {series: float(value) for series, value in re.findall(r"^([^#\s]\S*) (\S+)$", answer.text, re.MULTILINE)}


GRANTED = 'tidegate_limits_decisions_total{outcome="granted",tier="pro"}'


async def test_each_worker_shows_its_metrics_on_a_port_that_its_successor_takes(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any, eventually: Callable[..., Any]
) -> None:
    await publish_pro(redis)
    first = free_ports_in_a_row(2)
    patient = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "5", "TIDEGATE_DRAIN_SECONDS": "0", "TIDEGATE_STORE_URL": durable.url}
    process = start(TIDEGATE_METRICS_PORT=str(first), GUNICORN_CMD_ARGS="--workers 2", **patient)
    base, token = f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {issuer.mint('pro')}"}
    await eventually(lambda: all(GRANTED in shown_by(first + number) for number in (0, 1)), 15)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]

    answers = [httpx.get(f"{base}/v1/tiers/pro", headers=token).status_code for _ in range(40)]
    shown = [shown_by(first + number) for number in (0, 1)]
    os.kill(workers[0], signal.SIGKILL)
    await eventually(lambda: [shown_by(first + number).get(GRANTED) for number in (0, 1)].count(0.0) == 1, 15)
    public = httpx.get(f"{base}/metrics", headers=token)

    assert answers == [200] * 40
    assert sum(values[GRANTED] for values in shown) == 40
    assert [values["tidegate_tiers_revision"] for values in shown] == [1, 1]
    assert shown[0]["process_start_time_seconds"] > 0
    assert public.status_code == 404


@pytest.mark.parametrize("loss", ["killed", "frozen", "forbidden"])
async def test_a_worker_whose_redis_does_not_decide_says_so_everywhere(
    start: Start, port: int, valkeys: Callable[..., Any], issuer: Any, eventually: Callable[..., Any], loss: str
) -> None:
    """In the response, in a metric and, where Redis still takes it, in the heartbeat that the operator reads."""
    server, first = valkeys(), free_ports_in_a_row(1)
    async with server.client() as client:
        await publish_pro(client)
        patient = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "1", "TIDEGATE_DRAIN_SECONDS": "0"}
        start(TIDEGATE_METRICS_PORT=str(first), TIDEGATE_REDIS_URL=server.url, **patient)
        url, token = f"http://127.0.0.1:{port}/v1/tiers/pro", {"Authorization": f"Bearer {issuer.mint('pro')}"}

        async def is_deciding(expected: bool) -> bool:
            text = await client.hvals(keys.WORKERS)
            return [decode_heartbeat(beat).deciding for beat in text] == [expected]

        await eventually(lambda: GRANTED in shown_by(first), 15)
        await eventually(lambda: is_deciding(True))
        await eventually(lambda: shown_by(first)["tidegate_limits_workers"] == 1)
        well = httpx.get(url, headers=token)
        before = shown_by(first)
        if loss == "forbidden":
            await client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~tg:1:{tiers}*")
        else:
            {"killed": server.kill, "frozen": server.freeze}[loss]()
        alone = httpx.get(url, headers=token)
        after = shown_by(first)
        if loss == "forbidden":
            await eventually(lambda: is_deciding(False), 3)

    assert [answer.status_code for answer in (well, alone)] == [200, 200]
    assert [answer.headers.get("Tidegate-Limits") for answer in (well, alone)] == [None, "local"]
    assert [values["tidegate_limits_store_lost"] for values in (before, after)] == [0, 1]
    assert [values[GRANTED.replace("granted", "local_granted")] for values in (before, after)] == [0, 1]


async def test_no_customer_can_be_told_from_metrics(
    start: Start, port: int, redis: Redis, durable: Any, issuer: Any, eventually: Callable[..., Any]
) -> None:
    """Neither by name nor by pseudonym, nor by what a token calls its tier."""
    await publish_pro(redis)
    first = free_ports_in_a_row(1)
    patient = {"TIDEGATE_DECISION_TIMEOUT_SECONDS": "5", "TIDEGATE_STORE_URL": durable.url}
    start(TIDEGATE_METRICS_PORT=str(first), TIDEGATE_DEFAULT_TIER="pro", **patient)
    await eventually(lambda: GRANTED in shown_by(first), 15)

    for tier in ("pro", "canary-tier"):
        token = {"Authorization": f"Bearer {issuer.mint(tier, tenant='canary-tenant', client='canary-client')}"}
        httpx.get(f"http://127.0.0.1:{port}/v1/credits?canary-query", headers=token)
    for _ in range(2):
        key = {"Idempotency-Key": '"canary-key-0000001"'}
        httpx.post(f"http://127.0.0.1:{port}/v1/credits/purchases", json={"amount": 5}, headers=token | key).raise_for_status()
    shown = shown_by(first)

    labels = {name for series in shown if series.startswith("tidegate_") for name in re.findall(r"(\w+)=", series)}
    assert labels == {"tier", "outcome", "event", "call", "le", "lane"}
    assert (shown[GRANTED], shown["tidegate_tiers_unknown_total"]) == (3, 3)
    assert [shown[f'tidegate_mutations_total{{outcome="{outcome}"}}'] for outcome in ("done", "replayed", "failed")] == [1, 1, 0]
    assert shown['tidegate_store_call_seconds_count{call="commit"}'] > 0
    assert shown['tidegate_store_unanswered_calls_total{call="commit"}'] == 0
    assert "canary" not in str(shown)


def test_without_the_setting_no_port_is_opened(start: Start, port: int) -> None:
    process = start()
    wait_for(f"http://127.0.0.1:{port}/livez", 200)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    inodes = set()
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile, so it does not listen
            inodes.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert [int(line[1].split(":")[1], 16) for line in listening if line[9] in inodes] == [port]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"TIDEGATE_REGION": ""}, "TIDEGATE_REGION"),
        ({"TIDEGATE_DRAIN_SECONDS": "soon"}, "TIDEGATE_DRAIN_SECONDS"),
        ({"TIDEGATE_REGOIN": "typo"}, "TIDEGATE_REGOIN"),
        ({"TIDEGATE_STORE_URL": "redis://:password@store:port"}, "TIDEGATE_STORE_URL"),
        ({"TIDEGATE_IDENTITY_KEY_FILE": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_name(start: Start, tmp_path: Path, settings: dict[str, str], named: str) -> None:
    process = start(**settings)

    assert process.wait(15) != 0
    written = (tmp_path / "log").read_text()
    assert named in written
    assert "Traceback" not in written
    assert "password" not in written
