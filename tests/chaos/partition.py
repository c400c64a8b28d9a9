"""An etcd cluster whose members talk over links that can be cut: what is sent is lost, nobody is told, and nothing comes late (SIGSTOP
would deliver it afterwards). Used by `test_etcd.py` and `test_load.py`.
"""

import asyncio
import re
import shutil
import threading
import urllib.error
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.etcd_cluster import EtcdCluster, Member
from tests.kube.processes import eventually
from tests.ports import free_port

FROM = re.compile(rb"X-Server-From: ([0-9a-f]+)", re.IGNORECASE)
"""By which a member says, in all that it sends of Raft, which one it is."""


class Links:
    """The ways to members from their peers; on a thread of its own, so that a test may wait for whatever it likes."""

    def __init__(self) -> None:
        self.cut: frozenset[int] = frozenset()
        """Places of members that hear nobody and are heard by nobody. A connection that has lost something ends when it is cut no more."""
        self.places: dict[bytes, int] = {}
        """Of members, by what they call themselves."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lead(self, port: int, target: int, place: int) -> None:
        """Have connections to `port` go on to the port `target`, where the member in `place` listens."""
        self._on_loop(self._lead(port, target, place))

    def _on_loop(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _lead(self, port: int, target: int, place: int) -> None:
        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            with suppress(OSError, asyncio.CancelledError):
                await self._carry(reader, writer, target, place)
            await _close(writer)
            self._connections.discard(task)

        self._servers.append(await asyncio.start_server(connect, "127.0.0.1", port))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, place: int) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", target)
        ends, lost = {place}, asyncio.Event()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if len(ends) == 1 and (sender := FROM.search(data)):
                    ends.add(self.places.get(sender[1], place))
                if self.cut & ends:
                    lost.set()
                elif lost.is_set():
                    break
                else:
                    sink.write(data)

        pumps = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            await _close(back)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()


def _accepted(member: Member, path: str, body: dict[str, object]) -> bool:
    with suppress(urllib.error.HTTPError):
        member.call(path, body)
        return True
    return False


class DivisibleCluster(EtcdCluster):
    """Three members, of which one can be cut off from the others, or lose its disk."""

    def __init__(self, binary: Path, folder: Path) -> None:
        super().__init__(binary, folder)
        self._links, self._folder = Links(), folder
        self._listening = [free_port() for _ in self.members]
        for member, port in zip(self.members, self._listening, strict=True):
            # The last of a flag that is given twice is the one that counts.
            member.program.command += ["--listen-peer-urls", f"http://127.0.0.1:{port}"]

    def __enter__(self) -> Self:
        self._links.__enter__()
        for place, member in enumerate(self.members):
            self._links.lead(self._peer_port(member), self._listening[place], place)
        super().__enter__()
        self._links.places = {self.id_of(member): place for place, member in enumerate(self.members)}
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._links.__exit__()

    def mend(self) -> None:
        """Undo what was done to links and members, and do not wait for them."""
        self._links.cut = frozenset()
        for member in self.members:
            member.thaw()
            if member.program.has_ended():
                member.start()

    def restore(self) -> None:
        """Everybody is there, and knows that the first one leads."""
        self.mend()
        self.wait()
        eventually(self._first_leads, seconds=30)

    def _first_leads(self) -> bool:
        with suppress(urllib.error.URLError, OSError):
            if not self.members[0].leads():
                self.leader().call("maintenance/transfer-leadership", {"targetID": str(int(self.id_of(self.members[0]), 16))})
            first = self.members[0].call("maintenance/status")["header"]["member_id"]
            # Who has just been woken believes that it leads still, and knows nothing of the one that was elected meanwhile.
            return all(member.call("maintenance/status").get("leader") == first for member in self.members)
        return False

    def cut_off(self, member: Member) -> None:
        """Clients still reach it; its peers do not."""
        self._links.cut = frozenset({self.members.index(member)})

    def replace(self, member: Member) -> None:
        """In place of a member that has ended, put an empty one, as an operator does."""
        other = next(one for one in self.members if one is not member)
        place = self.members.index(member)
        eventually(other.has_leader, seconds=30)
        old = next(entry for entry in other.call("cluster/member/list")["members"] if entry["name"] == f"m{place}")
        other.call("cluster/member/remove", {"ID": old["ID"]})
        self.lose_disk(member)
        # The others must have been connected for a while before they take another.
        eventually(lambda: _accepted(other, "cluster/member/add", {"peerURLs": old["peerURLs"]}), seconds=30)
        member.program.command += ["--initial-cluster-state", "existing"]
        member.start()
        member.program.wait_until(member.has_leader, seconds=30)
        self._links.places[self.id_of(member)] = place

    def lose_disk(self, member: Member) -> None:
        shutil.rmtree(self._folder / f"m{self.members.index(member)}", ignore_errors=True)

    @staticmethod
    def id_of(member: Member) -> bytes:
        """As it calls itself among its peers."""
        return f"{int(member.call('maintenance/status')['header']['member_id']):x}".encode()

    @staticmethod
    def _peer_port(member: Member) -> int:
        command = member.program.command
        return int(command[command.index("--initial-advertise-peer-urls") + 1].rpartition(":")[2])
