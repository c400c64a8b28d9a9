"""Kube mode: kopf's events feed the reconciler; the only module that knows kopf, which imports it.

Run: `kopf run -m tidegate_operator.handlers --standalone --namespace NS --liveness http://0.0.0.0:8080/healthz`.
Needs on ratelimittiers: list, watch, patch; on ratelimittiers/status: patch; on events: create. Nothing cluster-wide, no get.
"""

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import kopf

from tidegate.contract.errors import TidegateError
from tidegate_operator.api import GROUP, PLURAL, VERSION, TierApi, read_object
from tidegate_operator.logs import configure_logging
from tidegate_operator.publisher import Publisher
from tidegate_operator.reconciler import Reconciler
from tidegate_operator.settings import Settings

FINALIZER = "tidegate.dev/regions"


@dataclass(frozen=True, slots=True)
class _Operator:
    settings: Settings
    api: TierApi
    publishers: list[Publisher]
    reconciler: Reconciler
    task: asyncio.Task[None]


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    """Configure kopf and start the reconciler."""
    _configure(settings)
    try:
        own = Settings.from_environment(os.environ)
        publishers = own.publishers()
    except TidegateError as ex:
        raise kopf.PermanentError(str(ex)) from ex
    configure_logging(own.log_level, own.log_format)
    api = TierApi(lambda: _connection(settings), own.namespace)
    reconciler = Reconciler(publishers, api, api)
    memo.operator = _Operator(own, api, publishers, reconciler, asyncio.create_task(reconciler.run()))


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the reconciler and close every connection."""
    operator: _Operator | None = memo.get("operator")
    if operator is None:
        return
    operator.task.cancel()
    await asyncio.wait([operator.task])
    await operator.api.aclose()
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
        raise kopf.PermanentError("no way to log in: neither a service account nor a kubeconfig")
    return connection


@kopf.on.probe(id="reconciler", errors=kopf.ErrorsMode.PERMANENT)
async def reconciler_runs(memo: kopf.Memo, **_: Any) -> str:
    """Fail the liveness probe once the reconciler has ended."""
    task: asyncio.Task[None] = memo.operator.task
    if task.done():
        raise kopf.PermanentError(f"the reconciler ended: {task!r}")
    return "runs"


@kopf.on.event(GROUP, VERSION, PLURAL)
async def observe(event: kopf.RawEvent, body: kopf.Body, patch: kopf.Patch, memo: kopf.Memo, **_: Any) -> None:
    """Hand the object to the reconciler; hold it back from deletion until the regions have let go of it."""
    operator: _Operator = memo.operator
    name, uid = str(body.metadata.name), str(body.metadata.uid)
    finalizers = body.metadata.get("finalizers", ())
    if event["type"] == "DELETED":
        await operator.reconciler.remove(name, uid)
    elif not body.metadata.get("deletionTimestamp"):
        operator.reconciler.put(read_object(body))
        if FINALIZER not in finalizers:
            patch.fns.append(_add_finalizer)
    else:
        remaining = await operator.reconciler.remove(name, uid, wait_seconds=operator.settings.retire_seconds)
        if FINALIZER in finalizers:
            patch.fns.append(_remove_finalizer)
        if remaining:
            message = f"Still published in {', '.join(remaining)}, which did not answer; it is removed when the region returns"
            kopf.warn(body, reason="NotRetired", message=message)


def _add_finalizer(body: kopf.RawBody) -> None:
    finalizers: list[str] = body["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)


def _remove_finalizer(body: kopf.RawBody) -> None:
    finalizers: list[str] = body["metadata"].get("finalizers", [])
    if FINALIZER in finalizers:
        finalizers.remove(FINALIZER)


def _configure(settings: kopf.OperatorSettings) -> None:
    # Another name than FINALIZER: kopf removes its own finalizer from objects for which no handler of its kind needs one.
    settings.persistence.finalizer = "tidegate.dev/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix="tidegate.dev", v1=False)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix="tidegate.dev", v1=False)
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.level = logging.WARNING
    settings.posting.reporting_component = "tidegate-operator"
    settings.posting.reporting_instance = socket.gethostname()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.queueing.worker_limit = 100
    settings.execution.default_backoff = 5
