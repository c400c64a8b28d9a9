"""Kube mode: kopf's events feed the reconciler; the only module that knows kopf, which imports it.

Run: `kopf run -m tidegate_operator.handlers --standalone --namespace NS --liveness http://0.0.0.0:8080/healthz`.
Needs on ratelimittiers: list, watch; on ratelimittiers/status: patch. Nothing cluster-wide, no get. Where it makes dedicated cache lanes,
also: list, watch, create, patch and delete of statefulsets; create, patch and delete of services, secrets and networkpolicies.
One of several operators needs create on leases, and get and patch on that of its name; without the lease it watches, so that it knows the
tiers when its turn comes, and writes nothing.

There is no finalizer (docs/decisions/0003): an uninstalled operator must not leave objects that nobody can delete.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import kopf

from tidegate.contract.errors import TidegateError
from tidegate_operator.api import GROUP, PLURAL, VERSION, TierApi
from tidegate_operator.errors import SourceUnavailableError
from tidegate_operator.kubernetes_api import ApiError, KubernetesApi
from tidegate_operator.lane_objects import LANE
from tidegate_operator.lanes import Lanes
from tidegate_operator.lease import Lease
from tidegate_operator.logs import configure_logging
from tidegate_operator.publisher import Publisher
from tidegate_operator.reconciler import Reconciler
from tidegate_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class _Operator:
    kubernetes: KubernetesApi
    api: TierApi
    lanes: Lanes | None
    lease: Lease | None
    publishers: list[Publisher]
    reconciler: Reconciler
    task: asyncio.Task[None]


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the reconciler."""
    _configure(settings)
    lease: Lease | None = None

    def connect() -> kopf.ConnectionInfo:
        if lease:
            lease.check()
        return _connection(settings)

    try:
        own = Settings.from_environment(os.environ)
        publishers = own.publishers()
        kubernetes = KubernetesApi(connect, own.namespace)
        lanes = _open_lanes(own, kubernetes)
    except TidegateError as ex:
        raise kopf.PermanentError(str(ex)) from ex
    configure_logging(own.log_level, own.log_format)
    api = TierApi(kubernetes, lanes.address if lanes else None)
    try:
        await api.list()
        if lanes:
            await lanes.recall()
    except (SourceUnavailableError, ApiError) as ex:
        # kopf looks for its resources once: watching begins when the definition is there, or never.
        await kubernetes.aclose()
        raise kopf.TemporaryError(f"the tiers or their lanes cannot be listed yet: {ex}", delay=2) from ex
    reconciler = Reconciler(publishers, api, api, lanes)
    if lanes:
        # Only now, as it is not known before whether we may: kopf begins to watch after this function.
        kopf.on.event("apps", "v1", "statefulsets", labels={**lanes.site.labels, LANE: kopf.PRESENT})(observe_lane)
    lease = Lease(kubernetes, own.lease) if own.lease else None
    for publisher in publishers:
        publisher.before_write = lease.check if lease else None
    task = asyncio.create_task(lease.hold(reconciler.run) if lease else reconciler.run())
    memo.operator = _Operator(kubernetes, api, lanes, lease, publishers, reconciler, task)


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the reconciler and close every connection."""
    operator: _Operator | None = memo.get("operator")
    if operator is None:
        return
    operator.task.cancel()
    await asyncio.wait([operator.task])
    if operator.lease:
        await operator.lease.release()
    await operator.kubernetes.aclose()
    for publisher in operator.publishers:
        await publisher.aclose()


@kopf.on.login()
def log_in(settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    """Have kopf log in as our own client does."""
    return _connection(settings)


def _connection(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    # The pod's service account, or the kubeconfig outside of a pod.
    connection = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if connection is None:
        raise SourceUnavailableError("no way to log in: neither a service account nor a kubeconfig")
    return connection


@kopf.on.probe(id="reconciler", errors=kopf.ErrorsMode.PERMANENT)
async def reconciler_runs(memo: kopf.Memo, **_: Any) -> str:
    """Fail the liveness probe once the reconciler has ended."""
    task: asyncio.Task[None] = memo.operator.task
    if task.done():
        raise kopf.PermanentError(f"the reconciler ended: {task!r}")
    return "runs"


@kopf.on.event(GROUP, VERSION, PLURAL)
async def observe(event: kopf.RawEvent, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Hand the object to the reconciler."""
    operator: _Operator = memo.operator
    if event["type"] == "DELETED":
        operator.reconciler.remove(str(body.metadata.name), str(body.metadata.uid))
    else:
        operator.reconciler.put(operator.api.read(body))


async def observe_lane(event: kopf.RawEvent, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Have the reconciler look at the tier of a cache lane whose StatefulSet changed."""
    operator: _Operator = memo.operator
    if operator.lanes:
        operator.reconciler.look_at(operator.lanes.see(body, is_gone=event["type"] == "DELETED"))


def _open_lanes(settings: Settings, kubernetes: KubernetesApi) -> Lanes | None:
    site = settings.lane_site()
    return Lanes(kubernetes, site, settings.lane_secret()) if site else None


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.peering.standalone = True
    settings.scanning.disabled = True
    # What is wrong with a tier is in its status.
    settings.posting.enabled = False
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    # A worker of kopf's is kept for each object that was seen, and ours has nothing to wait for.
    settings.queueing.idle_timeout = 0.5
    settings.execution.default_backoff = 5
