"""Every setting of an API worker, read once at start from `TIDEGATE_*` variables; called by `application.py` and `asgi.py` alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import msgspec

from tidegate.connections.etcd import StoreUrl
from tidegate.connections.url import OptionalUrl, RegionUrl
from tidegate.contract.errors import TidegateError

PREFIX = "TIDEGATE_"

Timeout = Annotated[float, msgspec.Meta(gt=0, le=60)]
"""In seconds; whoever waits longer than the edge does waits for nobody."""
NotEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class SettingsError(TidegateError):
    """A variable is missing or its value is not allowed; the text names it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's settings. A field `region` is read from `TIDEGATE_REGION`; one without default must be set.

    Args:
        region: Name of the region that this worker serves in; reported in logs and in the `Tidegate-Region` field.
        redis_url: The region's Redis, one server, behind Sentinels or a Cluster (docs/redis.md): tiers, usage vectors, heartbeats.
        store_url: The consistent store that all regions share, etcd or one Redis (docs/store.md): results of mutations, credits, records.
        token_issuer: The only accepted `iss` of access tokens.
        token_audience: The only accepted `aud` of access tokens.
        token_keys_file: JWKS of the issuer; read again when it changes.
        identity_key_file: Secret (>= 32 bytes) under which identities become pseudonyms; the same in all regions.
        other_identity_key_file: While one identity key replaces the other: the file of the other one; empty: there is one key.
        idempotency_key_file: Secret (>= 32 bytes) under which idempotency keys are stored; the same in all regions.
        result_key_file: Secret (>= 32 bytes) under which stored results are sealed; the same in all regions.
        other_result_key_file: While one result key replaces the other: the file of the other one; empty: there is one key.
        bare_idempotency_keys: Take idempotency keys without quotes, too; true or false.
        maximum_result_bytes: Largest answer of a mutation, at most 1 MiB; a handler that gives a larger one does nothing.
        replays_per_minute: How many repetitions of mutations an identity has in a minute, beside its quota.
        default_tier: Tier of a token that names an unknown one.
        default_tier_percent: Least share of the seats that the default tier's identities have together while they wait (docs/admission.md).
        seats: Requests that this worker runs at once, or the most of them.
        minimum_seats: If not 0, there are between so many seats and `seats`, by the latency of handlers; 0: always `seats`.
        tiers_file: Where the last good tiers are kept, so that a restart without Redis still knows them; empty: nowhere.
        payments_url: Address of the payment provider; empty: there are no payments.
        payments_timeout_seconds: Deadline of every call to the payment provider.
        redis_timeout_seconds: Deadline of every call to the region's Redis but decisions; this and the other two at most 60.
        decision_timeout_seconds: Deadline of a decision on limits; then the tier's `onStoreLoss` takes over.
        store_timeout_seconds: Deadline of every call to the consistent store.
        cache_url: Redis of the region's shared cache lane, one server of its own (docs/cache.md); empty: there is no shared lane.
        cache_timeout_seconds: Deadline of every call to a cache lane; then the request is served without.
        lane_key_file: Secret (>= 32 bytes) that the passwords of dedicated lanes follow from; empty: they have none.
        limits_shards: Over how many slots of a Redis Cluster usage is spread, 1 to 256; every worker of a region must have the same.
        maximum_body_bytes: Largest request body taken.
        drain_seconds: How long a stopping worker answers on after its readiness went off; at most 20, as gunicorn ends it after 25.
        metrics_port: First port of metrics: each worker shows its own on one of as many ports as there are workers; 0: nowhere.
        log_level: Lowest level that is logged: debug, info, warning or error.
    """

    region: NotEmpty
    redis_url: RegionUrl
    store_url: StoreUrl
    token_issuer: NotEmpty
    token_audience: NotEmpty
    token_keys_file: Path
    identity_key_file: Path
    idempotency_key_file: Path
    result_key_file: Path
    other_identity_key_file: str = ""
    other_result_key_file: str = ""
    bare_idempotency_keys: bool = False
    maximum_result_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1_048_576)] = 65_536
    replays_per_minute: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 600
    default_tier: NotEmpty = "free"
    default_tier_percent: Annotated[int, msgspec.Meta(ge=0, le=50)] = 5
    seats: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    minimum_seats: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    tiers_file: str = ""
    payments_url: Annotated[str, msgspec.Meta(pattern="^(https?://[^/@?#]+/?)?$")] = ""
    payments_timeout_seconds: Timeout = 10.0
    redis_timeout_seconds: Timeout = 0.25
    decision_timeout_seconds: Timeout = 0.05
    store_timeout_seconds: Timeout = 2.0
    cache_url: OptionalUrl = OptionalUrl("")
    cache_timeout_seconds: Timeout = 0.02
    lane_key_file: str = ""
    limits_shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    maximum_body_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 65_536
    drain_seconds: Annotated[float, msgspec.Meta(ge=0, le=20)] = 5.0
    metrics_port: Annotated[int, msgspec.Meta(ge=0, le=65_000)] = 0
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"

    def __post_init__(self) -> None:
        if self.minimum_seats > self.seats:
            raise ValueError(f"{self.minimum_seats} is more than the {self.seats} seats - at `$.minimum_seats`")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            SettingsError: A variable is missing, unknown or not allowed; the text names it.
        """
        given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(set(given) - set(cls.__struct_fields__))
        if unknown:
            raise SettingsError(f"unknown setting {PREFIX}{unknown[0].upper()}")
        try:
            return msgspec.convert(given, cls, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as ex:
            raise SettingsError(_explain(str(ex))) from None


def read_secret(path: Path) -> bytes:
    """The secret in a mounted file, without a final newline.

    Raises:
        SettingsError: The file cannot be read or holds fewer than 32 bytes.
    """
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as ex:
        raise SettingsError(f"secret file {path}: {ex.strerror}") from ex
    if len(secret) < 32:
        raise SettingsError(f"secret file {path}: holds {len(secret)} bytes, at least 32 are needed")
    return secret


def _decode(kind: type, value: object) -> object:
    # msgspec asks for the types that it does not know: paths and URLs.
    if kind is Path and not value:
        # It would be the working directory.
        raise ValueError("Expected the path of a file")
    return kind(value)


def _explain(message: str) -> str:
    # msgspec says "... missing required field `region`" or "... - at `$.region`": people set variables, so name the variable.
    for field in Settings.__struct_fields__:
        for mark in (f"`$.{field}`", f"`{field}`"):
            message = message.replace(mark, PREFIX + field.upper())
    return message
