"""Edges of the chart as a real Envoy carries them out, on loopback; called by the tests of edges and of their peers."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from tests.chart.rendering import Json, find
from tests.fake_api import FakeApi
from tests.ports import free_port

from tidegate.local.client import Client

ENVOY = Path(sys.executable).parent / "envoy"
PATH = "/v1/credits"


def config(documents: list[Json], region: str) -> Json:
    """What the edge of a region reads."""
    return dict(yaml.safe_load(find(documents, "ConfigMap", f"tidegate-edge-{region}")["data"]["envoy.yaml"]))


def clusters(config: Json) -> dict[str, Json]:
    """Whom an edge asks, by name."""
    return {found["name"]: found for found in config["static_resources"]["clusters"]}


def endpoints(config: Json) -> list[Json]:
    """The regions of the release."""
    return list(clusters(config)["api"]["load_assignment"]["endpoints"])


def complaint(config: Json, file: Path) -> str:
    """What Envoy has against a configuration; empty: it accepts it, and every field of it has a future."""
    file.write_text(json.dumps(config))
    checked = subprocess.run([str(ENVOY), "--mode", "validate", "-c", str(file)], capture_output=True, text=True, timeout=60, check=False)
    return checked.stderr if checked.returncode or "Deprecated" in checked.stderr else ""


@contextmanager
def running(config: Json, pods: Mapping[str, Sequence[FakeApi]], file: Path) -> Iterator[int]:
    """The port of an edge as it is rendered, but for its own address and those of the pods; other hosts must be on loopback already."""
    port = free_port()
    for each in endpoints(config):
        found = [{"address": "127.0.0.1", "port_value": api.server_port} for api in pods[each["locality"]["region"]]]
        each["lb_endpoints"] = [{"endpoint": {"address": {"socket_address": address}}} for address in found]
    config["static_resources"]["listeners"][0]["address"] = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    file.write_text(json.dumps(config))
    command = [str(ENVOY), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    with subprocess.Popen(command) as edge:
        try:
            yield port
        finally:
            edge.kill()


def heard(port: int) -> set[str]:
    """Who answers twenty requests; nobody while the edge does not listen."""
    try:
        with Client(port) as client:
            return {answer.region for answer in (client.get(PATH) for _ in range(20)) if answer.status == 200}
    except OSError:
        return set()


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until it holds. Fails when it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
