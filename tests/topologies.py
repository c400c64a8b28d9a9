"""A Redis in other forms than one server: behind Sentinels, as a Cluster, over TLS, and behind a network that loses replies."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis as BlockingRedis
from redis.exceptions import RedisError
from tests.conftest import Valkey
from tests.ports import free_port

SETTLING_SECONDS = 20.0
SLOTS = 16_384
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""For a primary: a replica need not wait for others that may want the same copy."""


def settle(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SETTLING_SECONDS
    while True:
        with suppress(RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, f"not settled within {SETTLING_SECONDS} s: {what}"
        time.sleep(0.02)


class ValkeyCluster:
    """Three primaries that hold all slots, each a third, and as many replicas as are asked for, of the first primaries."""

    def __init__(self, directory: Path, *, replicas: int = 0) -> None:
        # A primary that is gone must not stop the others, as docs/redis.md says.
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no", *AT_ONCE)
        self.nodes: list[Valkey] = []
        self._disturbed: dict[int, Valkey] = {}
        self._starting_owners: list[tuple[int, int, int]] = []
        self._lines: list[str] = []
        for number in range(3 + replicas):
            (directory / str(number)).mkdir(parents=True)
            bus_port = free_port()
            self.nodes.append(Valkey(directory / str(number), *options, "--cluster-port", str(bus_port)))
            role = f"slave {number - 3:040}" if number >= 3 else "master -"
            slots = f" {SLOTS * number // 3}-{SLOTS * (number + 1) // 3 - 1}" if number < 3 else ""
            epoch = number % 3 + 1
            self._lines.append(f"{number:040} 127.0.0.1:{self.nodes[-1].port}@{bus_port} {role} 0 0 {epoch} connected{slots}\n")
        for number in range(len(self.nodes)):
            # They know one another from the start: meeting takes much longer.
            lines = (
                line.replace(" master", " myself,master").replace(" slave", " myself,slave") if place == number else line
                for place, line in enumerate(self._lines)
            )
            (directory / str(number) / "nodes.conf").write_text("".join(lines) + "vars currentEpoch 3 lastVoteEpoch 0\n")
        self.primaries, self.replicas = self.nodes[:3], self.nodes[3:]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        settle(lambda: all(b"cluster_state:ok" in self.call(node, "INFO") for node in self.nodes), "the cluster")
        self._starting_owners = self._owners(self.nodes[0])
        settle(lambda: all(is_linked(replica) for replica in self.replicas), "the replicas")

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def flush(self) -> None:
        for node in self.primaries:
            node.flush()

    def primary_of(self, key: str) -> Valkey:
        return self.primaries[next(n for n in range(3) if int(self.call(self.nodes[0], "KEYSLOT", key)) < SLOTS * (n + 1) // 3)]

    def begin_to_move(self, slot: int, source: Valkey, target: Valkey) -> None:
        self.call(target, "SETSLOT", slot, "IMPORTING", self.call(source, "MYID").decode())
        self.call(source, "SETSLOT", slot, "MIGRATING", self.call(target, "MYID").decode())
        self._disturbed[slot] = source

    def migrate(self, slot: int, source: Valkey, target: Valkey) -> None:
        """Begin to move a slot with its keys, by the server's own means."""
        self.call(source, "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", self.call(target, "MYID").decode())
        self._disturbed[slot] = source

    def owner_of(self, slot: int) -> Valkey:
        """By what all nodes say, or else the primary that had it at the start."""
        said = {max(owner for owner in self._owners(node) if owner[0] <= slot)[2] for node in self.primaries}
        [port] = said if len(said) == 1 else [self.primaries[slot * 3 // SLOTS].port]
        return next(node for node in self.primaries if node.port == port)

    def assign(self, slot: int, owner: Valkey) -> None:
        """Make an empty slot another primary's; with a newer epoch, or old news would take it back."""
        self.call(owner, "BUMPEPOCH")
        for node in (owner, *self.primaries):
            self.call(node, "SETSLOT", slot, "STABLE")
            self.call(node, "SETSLOT", slot, "NODE", self.call(owner, "MYID").decode())
        self._disturbed[slot] = owner

    def restore(self) -> None:
        """Have all nodes agree that every slot is where it was at the start, and every node at its own port."""
        self.flush()
        for slot in list(self._disturbed):
            self.assign(slot, self.primaries[slot * 3 // SLOTS])
        self._disturbed.clear()
        settle(lambda: all(self._owners(node) == self._starting_owners for node in self.primaries), "the slots as they were")

    def _owners(self, node: Valkey) -> list[tuple[int, int, int]]:
        return sorted((first, last, primary[1]) for first, last, primary, *_ in self.call(node, "SLOTS"))

    def call(self, node: Valkey, *words: object) -> Any:
        with BlockingRedis(port=node.port) as client:
            client.response_callbacks.clear()
            return client.execute_command("CLUSTER", *words)


def is_linked(replica: Valkey) -> bool:
    """Whether it has all that its primary had, and follows it."""
    with BlockingRedis(port=replica.port) as client:
        return client.info("replication").get("master_link_status") == "up"


class Sentinels:
    """Sentinels that watch `primary` as the service `regional`, and make a replica of it the primary when it is gone."""

    def __init__(self, make: Callable[..., Valkey], directory: Path, *, primary: Valkey, number: int = 3, port: int | None = None) -> None:
        self.members = []
        for place in range(number):
            file = directory / f"sentinel-{place}.conf"
            file.write_text(
                f"sentinel monitor regional 127.0.0.1 {port or primary.port} {number // 2 + 1}\n"
                "sentinel down-after-milliseconds regional 300\nsentinel failover-timeout regional 3000\n"
            )
            self.members.append(make(str(file), "--sentinel"))

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{member.port}" for member in self.members) + "/regional"

    def wait_for(self, *replicas: Valkey) -> None:
        """Until they know one another and these, and these follow."""
        settle(lambda: all(map(is_linked, replicas)), "the replicas")
        settle(lambda: all(self._knows(member, len(replicas)) for member in self.members), "the Sentinels")

    def _knows(self, member: Valkey, replicas: int) -> bool:
        with BlockingRedis(port=member.port) as client:
            state = client.sentinel_master("regional")
        return state["num-slaves"] == replicas and state["num-other-sentinels"] == len(self.members) - 1


class Certificates:
    """A certificate of 127.0.0.1 and of hosts, and the authority that signed it, as files; that of the certificate holds its key, too."""

    def __init__(self, directory: Path, *hosts: str) -> None:
        directory.mkdir()
        self.authority = directory / "ca.pem"
        self.certificate = directory / "server.pem"
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        own = ec.generate_private_key(ec.SECP256R1())
        authority = _signed(name, name, key.public_key(), key, [x509.BasicConstraints(ca=True, path_length=0)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), *map(x509.DNSName, hosts)])
        certificate = _signed(subject, name, own.public_key(), key, [names])
        self.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        secret = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.certificate.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate)
        return context


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    by: ec.EllipticCurvePrivateKey,
    extensions: list[x509.ExtensionType],
) -> x509.Certificate:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(by, hashes.SHA256())


class Way:
    """A port that leads to `port`; it may keep or lose what comes back."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._context = context
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.loses_replies_to = b""
        """Once a request that holds this was passed on, its connection is cut instead of answered."""
        self.flows = asyncio.Event()
        """While it is not set, replies are kept."""
        self.flows.set()
        self.lost = self.handshakes = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Way"]:
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield self
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            listener.close()
            for end in (*self._ends, *self._tasks):
                end.close() if isinstance(end, asyncio.StreamWriter) else end.cancel()
            await asyncio.gather(*self._tasks, *(end.wait_closed() for end in self._ends), return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._serve(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        # Sentinels and nodes come in plain, clients over TLS: a handshake begins with this byte.
        is_secured = self._context is not None and await self._first_byte(accepted) == b"\x16"
        self.handshakes += is_secured
        with suppress(OSError):
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader), accepted, ssl=self._context if is_secured else None
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._ends.update((writer, back))
            await asyncio.gather(self._requests(reader, back, writer), self._replies(there, writer))

    async def _first_byte(self, accepted: socket.socket) -> bytes:
        while True:
            with suppress(BlockingIOError):
                return accepted.recv(1, socket.MSG_PEEK)
            await asyncio.sleep(0.001)

    async def _requests(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                back.write(data)
                if self.loses_replies_to and self.loses_replies_to in data:
                    self.lost += 1
                    writer.close()
        back.close()

    async def _replies(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await there.read(1 << 20):
                await self.flows.wait()
                if not writer.is_closing():
                    writer.write(data)
        writer.close()
