"""`tidegate up`: a local run in the foreground, from its start to Ctrl-C; called by `commands/local.py`."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path
from threading import Event
from types import FrameType

from tidegate.local.keys import Grant
from tidegate.local.layout import Layout
from tidegate.local.programs import api_name, redis_name
from tidegate.local.run import Run

SAMPLE_TIERS = ("free", "pro", "enterprise")
WATCH_SECONDS = 0.5
_PAYMENT = """-H 'Idempotency-Key: "my-first-payment"' -H 'Content-Type: application/json' -d '{"amount": 500}'"""
_PURCHASE = """-H 'Idempotency-Key: "my-first-purchase"' -H 'Content-Type: application/json' -d '{"amount": 500}'"""


def stop_on_signals() -> Event:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets, instead of ending this process half-way."""
    stop = Event()

    def set_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, set_stop)
    return stop


def up(layout: Layout) -> None:
    """Start, say what there is, watch, and stop at Ctrl-C.

    Raises:
        LocalRunError: It cannot start or go on.
    """
    stop = stop_on_signals()
    began = time.monotonic()
    with Run(layout) as run:
        if run.cleaned_up:
            _say(f"Ended {run.cleaned_up} processes that an earlier run had left behind.")
        run.wait_until_ready(stop)
        if not stop.is_set():
            _say(f"Ready after {time.monotonic() - began:.1f} s.\n\n{_welcome(run)}")
        _report_refusals(run)
        while not stop.wait(WATCH_SECONDS):
            _report_refusals(run)
            _report_crashes(run)
        _say("\nStopping.")
    _say("Stopped.")


def _report_refusals(run: Run) -> None:
    for refusal in run.take_refusals():
        _say(f"The operator refuses: {refusal}")


def _report_crashes(run: Run) -> None:
    for process in run.take_crashed():
        _say(f"\n{run.crash_report(process)}")
        for region in run.layout.regions:
            if process.name in (api_name(region.name), redis_name(region.name)):
                _say(f"Start it again: {_command()} region start {region.name}{_options(run.layout)}")


def _welcome(run: Run) -> str:
    layout, first = run.layout, run.layout.regions[0]
    regions = "\n".join(
        f"  {region.name:<10} edge http://127.0.0.1:{region.edge_port}   API http://127.0.0.1:{region.api_port}"
        for region in layout.regions
    )
    tokens = "\n".join(f"  {tier:<10} {run.keys.mint(Grant(tier))}" for tier in SAMPLE_TIERS)
    command, options, edge = _command(), _options(layout), f"http://127.0.0.1:{first.edge_port}"
    bearer = f'-H "Authorization: Bearer $({command} token --tier pro{options})"'
    return f"""Regions (use the edges: they find a region that is alive)
{regions}

Tokens of the sample tiers, valid for 15 minutes
{tokens}

Try
  curl -i {bearer} {edge}/v1/usage
  curl -i {bearer} {_PURCHASE} {edge}/v1/credits/purchases
  {command} region kill {first.name}{options}

A payment provider that cuts the line after it has charged; send the payment twice, and see one charge
  curl -X POST -d '{{"kind": "drop_reply"}}' {layout.payments_url}/faults
  curl -i {bearer} {_PAYMENT} {edge}/v1/payments
  curl {layout.payments_url}/charges

Edit {_short(layout.tiers)}/*.yaml and watch limits change. Logs: {_short(layout.logs)}
(operator.log says when an edit is enforced, or why it is refused). Ctrl-C stops everything."""


def _command() -> str:
    return shlex.quote(_short(Path(sys.argv[0])))


def _options(layout: Layout) -> str:
    return "" if layout.state == Path.cwd() / ".tidegate" else f" --state {shlex.quote(str(layout.state))}"


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _say(text: str) -> None:
    print(text, flush=True)
