"""Runs the members of the store as a rendered chart says, on loopback; called by the tests of the store."""

import base64
import json
import shutil
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from tests.kube.processes import Program, dying_with_parent, eventually
from tests.kube.tiers import Json
from tests.ports import free_port

START_SECONDS = 30
# As patient as a worker, TIDEGATE_STORE_TIMEOUT_SECONDS.
CALL_SECONDS = 2
PORTS = {"client": 2379, "peer": 2380, "metrics": 2381}


@dataclass(frozen=True)
class Certificates:
    """A folder with ca.crt, tls.crt and tls.key, as a Secret would be mounted."""

    folder: Path

    @classmethod
    def mount(cls, secret: Json, folder: Path) -> "Certificates":
        """Write what a Secret holds into a new folder."""
        folder.mkdir()
        for name, value in secret["data"].items():
            (folder / name).write_bytes(base64.b64decode(value))
        return cls(folder)

    @property
    def trust(self) -> ssl.SSLContext:
        """Trusts the authority, and shows nothing."""
        return ssl.create_default_context(cafile=self.folder / "ca.crt")

    @property
    def identity(self) -> ssl.SSLContext:
        """Trusts the authority, and shows the certificate."""
        context = self.trust
        context.load_cert_chain(self.folder / "tls.crt", self.folder / "tls.key")
        return context


@dataclass(frozen=True)
class Member:
    """One pod of the store: its process, a folder in place of its volume, and ports in place of the container's."""

    name: str
    volume: Path
    ports: dict[str, int]
    program: Program

    def url(self, port: str, *, scheme: str = "https") -> str:
        """Where a port of the container is on this machine."""
        return f"{scheme}://127.0.0.1:{self.ports[port]}"

    def call(self, path: str, body: Json, tls: ssl.SSLContext) -> Json:
        """Call its JSON gateway. Raises OSError when it refuses the connection or the call, or does not answer in time."""
        request = urllib.request.Request(f"{self.url('client')}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=CALL_SECONDS, context=tls) as answer:
            return dict(json.loads(answer.read()))

    def put(self, key: str, value: str, tls: ssl.SSLContext) -> None:
        """Write one key."""
        self.call("kv/put", {"key": encoded(key), "value": encoded(value)}, tls)

    def get(self, key: str, tls: ssl.SSLContext) -> str | None:
        """Read one key as the majority has it."""
        found = self.call("kv/range", {"key": encoded(key)}, tls).get("kvs", [])
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def passes(self, probe: Json) -> bool:
        """Whether a probe of the pod would pass now."""
        check = probe["httpGet"]
        try:
            with urllib.request.urlopen(self.url(check["port"], scheme="http") + check["path"], timeout=CALL_SECONDS) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def lose_disk(self) -> None:
        """End at once, and with an empty volume."""
        self.program.kill()
        shutil.rmtree(self.volume)
        self.volume.mkdir()


def encoded(text: str) -> str:
    """Text as the gateway takes it."""
    return base64.b64encode(text.encode()).decode()


@dataclass(frozen=True)
class Store:
    """The members, the certificates of both sides, and the container as it was rendered."""

    members: list[Member]
    own: Certificates
    client: Certificates
    container: Json

    def are_ready(self) -> bool:
        """Whether every pod would be, and takes calls: a member that has just joined does so a little later."""
        return all(member.passes(self.container["readinessProbe"]) and self.is_served_by(member) for member in self.members)

    def is_served_by(self, member: Member) -> bool:
        """Whether a member answers a worker."""
        try:
            return bool(self.listed(member))
        except OSError:
            return False

    def listed(self, asked: Member) -> dict[str, Json]:
        """The members as one of them lists them, by name."""
        found = asked.call("cluster/member/list", {}, self.client.identity)["members"]
        return {entry.get("name", ""): entry for entry in found}

    def leader(self) -> Member:
        """The member that leads."""
        leading = self.members[0].call("maintenance/status", {}, self.client.identity)["leader"]
        ids = {entry["ID"]: name for name, entry in self.listed(self.members[0]).items()}
        return next(member for member in self.members if member.name == ids[leading])

    def render_anew(self, etcd: Path, documents: list[Json]) -> None:
        """Have members start as another rendering says, from their next start on."""
        ports = {member.name: member.ports for member in self.members}
        for member in self.members:
            expanded = arguments(container_of(documents), member.name, ports, member.volume.parent)
            # No machine is lost here: a busy disk would only have them late, and miss heartbeats.
            member.program.command = [*dying_with_parent(), str(etcd), *expanded, "--unsafe-no-fsync"]


@contextmanager
def store(documents: list[Json], etcd: Path, folder: Path) -> Iterator[Store]:
    """Run the members that the chart renders until the block ends; they are ready."""
    own = Certificates.mount(named(documents, "Secret", "tidegate-store-tls"), folder / "own")
    client = Certificates.mount(named(documents, "Secret", "tidegate-store-client-tls"), folder / "client")
    replicas = named(documents, "StatefulSet", "tidegate-store")["spec"]["replicas"]
    ports = {f"tidegate-store-{ordinal}": {port: free_port() for port in PORTS} for ordinal in range(replicas)}
    members = [Member(name, folder / name, its, Program([], folder / f"{name}.log")) for name, its in ports.items()]
    started = Store(members, own, client, container_of(documents))
    started.render_anew(etcd, documents)
    with ExitStack() as running:
        for member in members:
            member.volume.mkdir()
            running.enter_context(member.program)
        eventually(started.are_ready, seconds=START_SECONDS)
        yield started


def named(documents: list[Json], kind: str, name: str) -> Json:
    """The one object of that kind and name."""
    (found,) = (document for document in documents if (document["kind"], document["metadata"]["name"]) == (kind, name))
    return found


def container_of(documents: list[Json]) -> Json:
    """The container of a member."""
    (container,) = named(documents, "StatefulSet", "tidegate-store")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def arguments(container: Json, name: str, ports: dict[str, dict[str, int]], folder: Path) -> list[str]:
    """The container's arguments as the kubelet would expand them, with loopback in place of names, and folders in place of volumes."""
    meant = {"$(POD_NAME)": name, "/etc/etcd/tls": str(folder / "own"), "=/data": f"={folder / name}"}
    for member, its in ports.items():
        meant |= {f"{member}.tidegate-store:{PORTS[port]}": f"127.0.0.1:{number}" for port, number in its.items()}
    meant |= {f"0.0.0.0:{PORTS[port]}": f"127.0.0.1:{number}" for port, number in ports[name].items()}
    return [reduce(lambda text, pair: text.replace(*pair), meant.items(), argument) for argument in container["args"]]
