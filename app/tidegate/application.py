"""The API put together: `create_app` is the only place that wires rooms, and holds the order of middleware and the route table."""

import asyncio
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import falcon.asgi
from falcon.asgi import Request, Response

from tidegate import problems
from tidegate.admission.middleware import LEFT, AdmissionMiddleware, leave_seat, timed
from tidegate.admission.seats import Seats
from tidegate.body import BodyMiddleware, when_left, whole_or_error
from tidegate.cache.lanes import Lanes, LaneSecrets
from tidegate.cache.measures import CacheMeasures
from tidegate.cache.middleware import CacheMiddleware
from tidegate.conditional import ConditionalMiddleware
from tidegate.connections.connect import RegionalRedis, connect, connect_region
from tidegate.connections.url import RedisUrl
from tidegate.idempotency.fault_points import Reached, go_on
from tidegate.idempotency.journal import LEASE_SECONDS, Journal
from tidegate.idempotency.key import names_of
from tidegate.idempotency.measures import MutationMeasures
from tidegate.idempotency.middleware import ReplayMiddleware
from tidegate.idempotency.sealing import Sealer
from tidegate.idempotency.transaction import TransactionMiddleware
from tidegate.identity.key_set import KeySet
from tidegate.identity.middleware import AuthorizationMiddleware, IdentityMiddleware
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.identity.tokens import TokenVerifier
from tidegate.limits.local import LocalLimiter
from tidegate.limits.measures import Measures
from tidegate.limits.middleware import LimitsMiddleware, replay_tier
from tidegate.limits.redis import RedisLimiter
from tidegate.limits.sharded import ShardedLimiter, limiter_of
from tidegate.metrics import PlatformMetrics
from tidegate.payments.provider import PaymentProvider
from tidegate.resources.credits import Credits, PurchaseEntry, Purchases
from tidegate.resources.health import Live, Ready
from tidegate.resources.openapi import OpenApi
from tidegate.resources.payments import PaymentEntry, Payments
from tidegate.resources.records import Records
from tidegate.resources.tiers import Tiers
from tidegate.resources.usage import Usage
from tidegate.routing import Router
from tidegate.settings import Settings, read_secret
from tidegate.store.base import ConsistentStore
from tidegate.store.connect import open_store
from tidegate.store.gathered import GatheredReads
from tidegate.store.health import StoreHealth
from tidegate.store.measured import MeasuredStore
from tidegate.store.regional import RegionalMemory
from tidegate.store.trust import TrustedStore
from tidegate.telemetry import TelemetryMiddleware, draining
from tidegate.tiers.source import TierSource


class App(falcon.asgi.App[Request, Response]):
    """Falcon's application, which takes no half message for a whole one, and serves nothing but routes."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # type: ignore[override]  # of the WSGI base
        """Answer an ASGI scope."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        receive = whole_or_error(receive)
        scope[LEFT] = when_left(receive)
        try:
            await super().__call__(scope, receive, send)
        finally:
            # It knows `receive`, which knows the scope: a cycle that only a collection would free.
            del scope[LEFT]
            leave_seat(scope)

    def add_sink(self, *args: object, **options: object) -> NoReturn:
        """Refuse, and static routes alike: Falcon calls the middleware that guard a resource for routes alone.

        Raises:
            TypeError: Always.
        """
        raise TypeError("sinks and static routes would be served without token, key and limits: add a route")

    add_static_route = add_sink


@dataclass(frozen=True, slots=True)
class Adapters:
    """What a worker holds open: the tiers it knows, the limiter, the cache lanes and the consistent store."""

    tiers: TierSource
    measures: Measures
    mutations: MutationMeasures
    limiter: RedisLimiter | ShardedLimiter
    lanes: Lanes
    cached: CacheMeasures
    store: ConsistentStore
    store_health: StoreHealth
    payments: PaymentProvider | None
    seats: Seats
    regional: RegionalRedis
    metrics: PlatformMetrics

    async def process_startup(self, scope: object, event: object) -> None:
        """Open everything; a Redis that is away does not stop a start."""
        self.metrics.show()
        draining.at_end(self.seats.stop)
        await self.tiers.start()
        await asyncio.gather(self.limiter.start(), self.store_health.start())

    async def process_shutdown(self, scope: object, event: object) -> None:
        """Close everything, after the last request has been answered."""
        await self.store_health.stop()
        await self.tiers.stop()
        await self.limiter.aclose()
        await self.lanes.aclose()
        if self.payments:
            await self.payments.close()
        await self.store.close()
        await self.regional.aclose()
        self.metrics.hide()


def create_app(settings: Settings, *, reached: Reached = go_on, lease_seconds: int = LEASE_SECONDS) -> App:
    """The ASGI application of one worker.

    Args:
        settings: Its settings.
        reached: Told of the fault points of mutations, for tests of what a crash leaves.
        lease_seconds: How long the claim of a crashed worker stands, for tests that cannot wait.

    Raises:
        SettingsError: A secret or key file cannot be used.
    """
    keys = KeySet(settings.token_keys_file)
    adapters = _open_adapters(settings)
    verifier = TokenVerifier(keys, issuer=settings.token_issuer, audience=settings.token_audience)
    identity_keys = _secrets(settings.identity_key_file, settings.other_identity_key_file)
    sealer = Sealer(*_secrets(settings.result_key_file, settings.other_result_key_file))
    journal = Journal(adapters.store, sealer, lease_seconds=lease_seconds)
    # Of the secrets of all regions, the one that stays when the identity key is replaced.
    stays = read_secret(settings.idempotency_key_file)
    pseudonyms = Pseudonyms(*identity_keys, shards=settings.limits_shards, shard_key=stays)
    # The way of a request, in order; each hands the next a typed value on `req.context`.
    router = Router(timed if settings.minimum_seats else None)
    app = App(
        router=router,
        middleware=[
            adapters,
            TelemetryMiddleware(settings.region, draining),
            IdentityMiddleware(verifier, pseudonyms, adapters.tiers),
            AuthorizationMiddleware(),
            BodyMiddleware(settings.maximum_body_bytes),
            ReplayMiddleware(
                journal, stays, router.mutations, bare_keys=settings.bare_idempotency_keys, measures=adapters.mutations, reached=reached
            ),
            LimitsMiddleware(
                adapters.limiter, LocalLimiter(lambda: adapters.tiers.workers), replay_tier(settings.replays_per_minute), adapters.measures
            ),
            AdmissionMiddleware(adapters.seats),
            ConditionalMiddleware(),
            CacheMiddleware(adapters.lanes, router.cached, problems.render, adapters.cached),
            TransactionMiddleware(
                journal, problems.render, maximum_result_bytes=settings.maximum_result_bytes, measures=adapters.mutations, reached=reached
            ),
        ],
    )
    problems.install(app)
    _add_routes(app, adapters, keys)
    return app


def _add_routes(app: App, adapters: Adapters, keys: KeySet) -> None:
    store, limiter = adapters.store, adapters.limiter
    ready = Ready(
        [
            ("draining", lambda: not draining.started),
            ("token-keys", lambda: not keys.is_empty),
            ("tiers", lambda: bool(adapters.tiers.snapshot.tiers)),
            ("region", lambda: adapters.tiers.connected),
            ("store", lambda: adapters.store_health.is_usable),
        ]
    )
    app.add_route("/livez", Live())
    app.add_route("/readyz", ready)
    app.add_route("/openapi.yaml", OpenApi())
    app.add_route("/v1/usage", Usage(limiter))
    app.add_route("/v1/tiers/{name}", Tiers())
    app.add_route("/v1/credits", Credits(store))
    app.add_route("/v1/credits/purchases", Purchases())
    app.add_route("/v1/credits/purchases/{purchase_id}", PurchaseEntry(store))
    app.add_route("/v1/records/{record_id}", Records(store))
    if adapters.payments:
        app.add_route("/v1/payments", Payments(adapters.payments))
        app.add_route("/v1/payments/{payment_id}", PaymentEntry(store))


def _secrets(file: Path, other_file: str) -> list[bytes]:
    return [read_secret(file), *([read_secret(Path(other_file))] if other_file else [])]


def _open_payments(settings: Settings) -> PaymentProvider:
    from tidegate.payments.http import HttpPaymentProvider  # here: aiohttp is 8 MB of a worker, and most take no payments

    return HttpPaymentProvider(settings.payments_url, timeout_seconds=settings.payments_timeout_seconds)


def _open_adapters(settings: Settings) -> Adapters:
    regional = connect_region(settings.redis_url, timeout_seconds=settings.redis_timeout_seconds)
    measures, mutations = Measures(), MutationMeasures()
    limiter = limiter_of(regional, shards=settings.limits_shards, deadline_seconds=settings.decision_timeout_seconds, measures=measures)
    measured = MeasuredStore(open_store(settings.store_url, timeout_seconds=settings.store_timeout_seconds))
    store = TrustedStore(GatheredReads(measured), RegionalMemory(regional), names_of(read_secret(settings.idempotency_key_file)))
    last_good = Path(settings.tiers_file) if settings.tiers_file else None
    # Unique over restarts and pods, so that two workers never answer for one another.
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    tiers = TierSource(
        regional,
        worker_id=worker_id,
        default_tier=settings.default_tier,
        last_good=last_good,
        decides=lambda: measures.decides(time.monotonic()),
    )
    payments = _open_payments(settings) if settings.payments_url else None
    seats, cached = _open_seats(settings), CacheMeasures()
    lanes = _open_lanes(settings, tiers)
    metrics = PlatformMetrics(measures, tiers, mutations, measured, seats, cached)
    return Adapters(tiers, measures, mutations, limiter, lanes, cached, store, StoreHealth(store), payments, seats, regional, metrics)


def _open_seats(settings: Settings) -> Seats:
    share = settings.default_tier_percent / 100
    return Seats(settings.seats, least=settings.minimum_seats, default_tier=settings.default_tier, default_share=share)


def _open_lanes(settings: Settings, tiers: TierSource) -> Lanes:
    # Names must outlive a replacement of keys, or what is kept under the other key's could not be invalidated.
    names, sealing = read_secret(settings.idempotency_key_file), _secrets(settings.result_key_file, settings.other_result_key_file)
    passwords = read_secret(Path(settings.lane_key_file)) if settings.lane_key_file else b""
    timeout_seconds = settings.cache_timeout_seconds
    return Lanes(
        settings.region,
        settings.cache_url,
        lambda url: connect(RedisUrl(url), timeout_seconds=timeout_seconds),
        LaneSecrets(names, tuple(sealing), passwords),
        tiers.document,
        timeout_seconds=timeout_seconds,
    )
