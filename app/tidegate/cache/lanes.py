"""`Lanes`: which lane a tier has now; made by `application.py`, asked by `middleware.py` and the purge."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from tidegate.cache.lane import Connect, Lane
from tidegate.cache.sealing import LaneKeys
from tidegate.contract.codec import TierDocument
from tidegate.contract.lanes import lane_identity, lane_password, lane_url
from tidegate.contract.tier import Lane as LaneKind
from tidegate.contract.tier import Tier

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

SHARED = "shared"
"""Identity of a region's shared lane."""


@dataclass(frozen=True, slots=True)
class LaneSecrets:
    """The mounted secrets that every lane's own are derived from.

    Args:
        names: For names; never replaced.
        sealing: For contents: the first seals, any opens. Empty for whoever only removes.
        passwords: For the passwords of dedicated lanes; empty: they have none.
    """

    names: bytes
    sealing: tuple[bytes, ...]
    passwords: bytes = b""


class Lanes:
    """The lanes of a region; a dedicated one is opened when its tier is first used, and anew when its document names another place.

    Args:
        region: Name of the region, which addresses may hold.
        shared_url: Redis of the shared lane; empty: there is none.
        connect: Makes the client of a lane.
        secrets: What keys and passwords are derived from.
        document: The published document of a tier.
        timeout_seconds: Deadline of every call to a lane.
    """

    def __init__(
        self,
        region: str,
        shared_url: str,
        connect: Connect,
        secrets: LaneSecrets,
        document: Callable[[str], TierDocument | None],
        *,
        timeout_seconds: float,
    ) -> None:
        self._region = region
        self._connect = connect
        self._secrets = secrets
        self._document = document
        self._timeout_seconds = timeout_seconds
        self._dedicated: dict[str, tuple[TierDocument, Lane | None]] = {}
        self._closing = set[asyncio.Task[None]]()
        self.shared = self._open(LaneKind.SHARED, SHARED, shared_url) if shared_url else None

    def of(self, tier: Tier) -> Lane | None:
        """The lane of a tier; None if it wants none, or the one that it wants is not there. Never another one's."""
        match tier.cache.lane:
            case LaneKind.SHARED:
                return self.shared
            case LaneKind.DEDICATED:
                return self._dedicated_of(tier.name)
            case _:
                return None

    async def aclose(self) -> None:
        """Close every lane."""
        lanes = [self.shared, *(lane for _, lane in self._dedicated.values())]
        await asyncio.gather(*self._closing, *(lane.aclose() for lane in lanes if lane))

    def _dedicated_of(self, name: str) -> Lane | None:
        document, known = self._document(name), self._dedicated.get(name)
        if known and known[0] is document:
            return known[1]
        self._close_former()
        if document is None:
            return None
        lane = self._dedicated[name][1] if name in self._dedicated else self._open_dedicated(document)
        self._dedicated[name] = (document, lane)
        return lane

    def _close_former(self) -> None:
        """Close the lanes of tiers that are gone, or have another one now; their keys go with them."""
        for name, (known, lane) in list(self._dedicated.items()):
            document = self._document(name)
            if document and document.tier.cache.lane is LaneKind.DEDICATED and (document.uid, document.lane) == (known.uid, known.lane):
                continue
            del self._dedicated[name]
            if lane:
                closing = asyncio.get_running_loop().create_task(lane.aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _open_dedicated(self, document: TierDocument) -> Lane | None:
        if not document.lane:
            return None
        password = lane_password(self._secrets.passwords, document) if self._secrets.passwords else ""
        try:
            url = lane_url(document.lane, region=self._region, password=password)
            return self._open(LaneKind.DEDICATED, lane_identity(document), url, document.tier.name)
        except ValueError as ex:
            log.error("the address of a cache lane cannot be used", tier=document.tier.name, reason=str(ex))
            return None

    def _open(self, kind: LaneKind, identity: str, url: str, tier: str = "") -> Lane:
        lane_keys = LaneKeys(identity, self._secrets.names, *self._secrets.sealing)
        return Lane(kind, lane_keys, self._connect(url), timeout_seconds=self._timeout_seconds, tier=tier)
