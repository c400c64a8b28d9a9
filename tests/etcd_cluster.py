"""A real etcd cluster on loopback, whose members can be killed and frozen; for the store's tests and benchmark."""

import base64
import json
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.kube.processes import Program, eventually
from tests.ports import free_port

SETTLING_SECONDS = 30.0


class Member:
    """One member; `port` is where clients come."""

    def __init__(self, program: Program, port: int, context: ssl.SSLContext | None) -> None:
        self.program = program
        self.port = port
        self._context = context

    def start(self) -> None:
        self.program.start()

    def kill(self) -> None:
        self.program.kill()

    def freeze(self) -> None:
        self.program.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.program.send(signal.SIGCONT)

    def call(self, path: str, body: dict[str, Any] | None = None, *, token: str = "") -> dict[str, Any]:
        """What its JSON gateway answers; HTTPError if it refuses."""
        headers = {"Authorization": token} if token else {}
        scheme = "https" if self._context else "http"
        request = urllib.request.Request(f"{scheme}://127.0.0.1:{self.port}/v3/{path}", json.dumps(body or {}).encode(), headers)
        with urllib.request.urlopen(request, timeout=5, context=self._context) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def leads(self) -> bool:
        status = self.call("maintenance/status")
        return bool(status.get("leader") == status["header"]["member_id"])

    def has_leader(self) -> bool:
        with suppress(urllib.error.URLError, OSError):
            return "leader" in self.call("maintenance/status")
        return False


class EtcdCluster:
    """Members with their files in `folder`; they do not wait for their disks, as no machine is lost here.

    With a `context` clients come over TLS, and the `options` must say how.
    """

    def __init__(self, binary: Path, folder: Path, *options: str, members: int = 3, context: ssl.SSLContext | None = None) -> None:
        folder.mkdir(exist_ok=True)
        peers = [f"http://127.0.0.1:{free_port()}" for _ in range(members)]
        initial = ",".join(f"m{place}={url}" for place, url in enumerate(peers))
        self.members = [_member(binary, folder, place, peers[place], initial, options, context) for place in range(members)]

    @property
    def url(self) -> str:
        return self.url_of(*self.members)

    def url_of(self, *members: Member | int, login: str = "") -> str:
        """Of members, or of ports that lead to some."""
        ports = [member if isinstance(member, int) else member.port for member in members]
        return f"etcd://{login}{','.join(f'127.0.0.1:{port}' for port in ports)}"

    def __enter__(self) -> Self:
        for member in self.members:
            member.start()
        self.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.thaw()
            member.program.kill()

    def wait(self) -> None:
        """Until every member knows a leader."""
        for member in self.members:
            member.program.wait_until(member.has_leader, seconds=SETTLING_SECONDS)

    def wait_for_login(self, user: str, password: str) -> None:
        """Until a user can sign in, at a member that started again."""

        def is_known() -> bool:
            with suppress(urllib.error.URLError, OSError):
                return "token" in self.members[0].call("auth/authenticate", {"name": user, "password": password})
            return False

        self.members[0].program.wait_until(is_known, seconds=SETTLING_SECONDS)

    def leader(self) -> Member:
        return eventually(lambda: next((member for member in self.members if member.leads()), None), seconds=SETTLING_SECONDS)  # type: ignore[return-value]

    def flush(self) -> None:
        """Delete every key."""
        everything = base64.b64encode(b"\0").decode()
        self.members[0].call("kv/deleterange", {"key": everything, "range_end": everything})


def _member(
    binary: Path, folder: Path, place: int, peer_url: str, initial: str, options: Sequence[str], context: ssl.SSLContext | None
) -> Member:
    port = free_port()
    client_url = f"{'https' if context else 'http'}://127.0.0.1:{port}"
    flags = [
        *("--name", f"m{place}", "--data-dir", str(folder / f"m{place}"), "--log-level", "warn", "--unsafe-no-fsync"),
        *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
        *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url, "--initial-cluster", initial),
        *options,
    ]
    return Member(Program([str(binary), *flags], folder / f"m{place}.log"), port, context)
