"""At most one of several operators acts: a Lease of Kubernetes that its holder renews; called by `handlers.py` where a lease is set.

The protocol is that of client-go's leader election, so that `kubectl get lease` shows it like any other; docs/decisions/0012 says why that
of the Kubernetes client is not used. A holder that was frozen or cut off until another may act ends before its next write.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from tidegate_operator.kubernetes_api import ApiError, KubernetesApi

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

VERSION = "coordination.k8s.io/v1"
LEASE_SECONDS, RENEWAL_SECONDS, RETRY_SECONDS = 15, 10, 2
"""As in Kubernetes' own controllers. A holder acts for `RENEWAL_SECONDS` after it asked for its last renewal, and others wait for
`LEASE_SECONDS` after they saw that: clocks that run differently by a third do no harm, and what they show does not matter."""
CALL_SECONDS = 3.0
"""Deadline of a look or a write: several fit into `RENEWAL_SECONDS`."""


class Lease:
    """One by name, which this process holds or would.

    Args:
        kubernetes: The API of the namespace where it is.
        name: Of the Lease.
    """

    def __init__(self, kubernetes: KubernetesApi, name: str) -> None:
        self._kubernetes = kubernetes
        self._name = name
        # Unique over restarts, so that nobody takes its predecessor's lease for its own.
        self._identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._acts_until: float | None = None
        self._seen: Mapping[str, Any] = {}
        self._seen_at = 0.0

    def check(self) -> None:
        """End this process, without another step, where it held the lease and another may hold it by now; called before each write."""
        if self._acts_until is not None and time.monotonic() >= self._acts_until:
            self._end("the lease was not renewed in time")

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for the lease, then do that work until cancelled; the process ends when the lease is lost."""
        while True:
            if await self._try():
                break
            await asyncio.sleep(self._pause())
        log.info("this operator acts", lease=self._name, holder=self._identity)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            await work()

    async def release(self) -> None:
        """Let another act at once; only after the work has ended."""
        if self._acts_until is None:
            return
        try:
            async with asyncio.timeout(CALL_SECONDS):
                found = await self._kubernetes.read(VERSION, self._path)
                if (found.get("spec") or {}).get("holderIdentity") == self._identity:
                    await self._write({"holderIdentity": None}, found)
        except (ApiError, TimeoutError) as ex:
            log.warning("the lease was not released, another operator waits for its end", cause=str(ex))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            await self._try()
            self.check()

    async def _try(self) -> bool:
        """Take or renew it; False if it is another's, or nobody knows."""
        asked = time.monotonic()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                is_held = await self._take()
        except (ApiError, TimeoutError) as ex:
            log.warning("the lease could not be taken or renewed", cause=str(ex))
            return False
        if is_held:
            self._acts_until = asked + RENEWAL_SECONDS
        elif self._acts_until is not None:
            self._end("another operator holds the lease")
        return is_held

    async def _take(self) -> bool:
        try:
            found = await self._kubernetes.read(VERSION, self._path)
        except ApiError as ex:
            if ex.status != 404:
                raise
            body = {"apiVersion": VERSION, "kind": "Lease", "metadata": {"name": self._name}, "spec": self._claim({})}
            await self._kubernetes.create(VERSION, "leases", body)
            return True
        spec = found.get("spec") or {}
        if not self._is_free(spec):
            return False
        await self._write(self._claim(spec), found)
        return True

    def _is_free(self, spec: Mapping[str, Any]) -> bool:
        if spec.get("holderIdentity") in (None, "", self._identity):
            return True
        now = time.monotonic()
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        return now - self._seen_at >= LEASE_SECONDS

    def _pause(self) -> float:
        # Not past the end of the lease that was seen: the look after that could be almost as long away as looks are apart.
        left = self._seen_at + LEASE_SECONDS - time.monotonic()
        return left if 0 < left < RETRY_SECONDS else RETRY_SECONDS

    def _claim(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        claim = {"holderIdentity": self._identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        if spec.get("holderIdentity") == self._identity:
            return claim
        return claim | {"acquireTime": now, "leaseTransitions": spec.get("leaseTransitions", -1) + 1}

    async def _write(self, spec: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        # With the version that was seen, the API server refuses a write on top of another's.
        metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
        await self._kubernetes.merge(VERSION, self._path, {"metadata": metadata, "spec": spec})

    @property
    def _path(self) -> str:
        return f"leases/{self._name}"

    def _end(self, reason: str) -> None:
        # Nothing is closed or awaited on the way: another acts already, or will as soon as it can.
        log.error("this operator ends", reason=reason)
        os._exit(1)
