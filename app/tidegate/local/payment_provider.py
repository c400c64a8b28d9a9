"""A payment provider for the local run and for tests, that fails on demand; run by `programs.py` as a process of its own.

Strict, as the worst of real ones: asked twice, it charges twice. It only refuses a lower fencing number than it has seen for the effect.
`POST /faults` with `{"kind": "slow", "times": 1, "seconds": 2}` makes the next charges fail (`KINDS`); `GET /charges` lists what was taken.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from aiohttp import web

KINDS = ("slow", "refuse", "fail", "fail_after_charging", "drop_reply", "garbage", "decline", "hold")
"""slow: answers late. refuse: 503, nothing taken. fail: 500, nothing taken. fail_after_charging: 500. drop_reply: the connection is cut
after charging. garbage: 201 and no charge after charging. decline: 402. hold: charges, and answers when the faults are cleared."""


@dataclass
class Fault:
    """What the next charges get: of `KINDS`, how often, and for `slow` how late."""

    kind: str
    times: int = 1
    seconds: float = 1.0


@dataclass
class Ledger:
    """Every charge that was taken, and the highest fencing number seen of each effect; kept in `file` if there is one."""

    file: Path | None = None
    charges: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    fencing: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    cleared: asyncio.Event = field(default_factory=asyncio.Event)

    def load(self) -> None:
        """Read the charges of earlier runs."""
        if self.file and self.file.exists():
            for line in self.file.read_text().splitlines():
                match json.loads(line):
                    case [effect_id, int(fencing)]:
                        self.fencing[effect_id] = fencing
                    case [effect_id, charge]:
                        self.charges.setdefault(effect_id, []).append(charge)

    def take(self, effect_id: str, order: dict[str, object]) -> dict[str, object]:
        """Charge."""
        charge = {"id": f"ch_{secrets.token_hex(12)}", "amount": order["amount"], "currency": order["currency"]}
        self.charges.setdefault(effect_id, []).append(charge)
        self._keep(effect_id, charge)
        return charge

    def is_stale(self, effect_id: str, fencing: int) -> bool:
        """Whether a later owner has asked before; remembers this one otherwise."""
        seen = self.fencing.get(effect_id, 0)
        if fencing > seen:
            self.fencing[effect_id] = fencing
            self._keep(effect_id, fencing)
        return fencing < seen

    def _keep(self, effect_id: str, what: object) -> None:
        if self.file:
            with self.file.open("a") as file:
                file.write(json.dumps([effect_id, what]) + "\n")

    def next_fault(self) -> Fault | None:
        """The fault of the next charge, if any."""
        while self.faults and self.faults[0].times <= 0:
            self.faults.pop(0)
        if self.faults:
            self.faults[0].times -= 1
            return self.faults[0]
        return None


LEDGER = web.AppKey("ledger", Ledger)
routes = web.RouteTableDef()


@routes.post("/charges")
async def charge(request: web.Request) -> web.StreamResponse:
    """Take money, or fail as told."""
    ledger, effect_id = request.app[LEDGER], request.headers["Idempotency-Key"]
    order = await request.json()
    if ledger.is_stale(effect_id, int(request.headers["Fencing-Token"])):
        return web.json_response({"error": "a later owner has asked"}, status=409)
    fault = ledger.next_fault()
    if fault and fault.kind in ("refuse", "fail", "decline"):
        return web.json_response({"error": fault.kind}, status={"refuse": 503, "fail": 500, "decline": 402}[fault.kind])
    taken = ledger.take(effect_id, order)
    return await _answer(request, fault, taken)


async def _answer(request: web.Request, fault: Fault | None, taken: dict[str, object]) -> web.StreamResponse:
    match fault:
        case Fault("slow", seconds=seconds):
            await asyncio.sleep(seconds)
        case Fault("hold"):
            await request.app[LEDGER].cleared.wait()
        case Fault("fail_after_charging"):
            return web.json_response({"error": "fault"}, status=500)
        case Fault("garbage"):
            return web.Response(text="<html>", status=201)
        case Fault("drop_reply") if request.transport:
            request.transport.abort()
    return web.json_response(taken, status=201)


@routes.get("/charges/{effect_id}")
async def find(request: web.Request) -> web.Response:
    """The charge of an effect; a charge with a lower fencing number is refused from now on."""
    ledger, effect_id = request.app[LEDGER], request.match_info["effect_id"]
    if ledger.is_stale(effect_id, int(request.headers["Fencing-Token"])):
        return web.json_response({"error": "a later owner has asked"}, status=409)
    taken = ledger.charges.get(effect_id)
    return web.json_response(taken[0]) if taken else web.json_response({"error": "no such charge"}, status=404)


@routes.get("/charges")
async def charges(request: web.Request) -> web.Response:
    """Everything that was taken, by effect id."""
    return web.json_response(request.app[LEDGER].charges)


@routes.post("/faults")
async def faults(request: web.Request) -> web.Response:
    """Make the next charges fail; `{}` clears what was asked for."""
    ledger, asked = request.app[LEDGER], await request.json()
    if asked and asked.get("kind") not in KINDS:
        return web.json_response({"error": f"kind must be one of: {', '.join(KINDS)}"}, status=400)
    if asked:
        ledger.faults.append(Fault(**asked))
    else:
        ledger.faults.clear()
        ledger.cleared.set()
        ledger.cleared = asyncio.Event()
    return web.json_response({})


def make_app(file: Path | None) -> web.Application:
    """The provider, with what `file` holds."""
    app = web.Application()
    app.add_routes(routes)

    async def load(app: web.Application) -> AsyncIterator[None]:
        app[LEDGER] = Ledger(file)
        app[LEDGER].load()
        yield

    app.cleanup_ctx.append(load)
    return app


@click.command()
@click.option("--port", type=int, required=True, help="Port on the loopback interface.")
@click.option("--file", type=click.Path(path_type=Path), help="Where charges are kept; else they end with the process.")
def main(port: int, file: Path | None) -> None:
    """Run the provider until it is stopped."""
    web.run_app(make_app(file), host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
