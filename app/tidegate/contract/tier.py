"""`Tier`: what a customer class may do, validated; made by the operator from a spec and by the API from a document.

`from_spec` accepts exactly what the RateLimitTier CRD accepts (a property test holds both against a real API server).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from tidegate.contract.durations import mebibytes
from tidegate.contract.errors import InvalidTierError, Violation
from tidegate.contract.spec_reader import SpecReader

NAME_PATTERN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
WINDOW_NAME_PATTERN = r"[a-z]([-a-z0-9]*[a-z0-9])?"
SECONDS_PATTERN = r"([0-9]{1,5}(h|m|s)){1,3}"
MILLISECONDS_PATTERN = r"([0-9]{1,5}(h|m|s|ms)){1,4}"
MEMORY_PATTERN = r"[1-9][0-9]{0,5}(Mi|Gi)"
PATH_PATTERN = r"/[A-Za-z0-9._~{}/-]*"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAXIMUM_LIMIT = 2**53 - 1
"""Largest integer that Lua's double counts exactly."""


class Enforcement(StrEnum):
    """Whether a refusal is carried out or only counted."""

    ENFORCE = "Enforce"
    SHADOW = "Shadow"


class PartitionBy(StrEnum):
    """Whose requests share one usage vector. There is no address on purpose."""

    TOKEN = "Token"  # noqa: S105 - the field's value, not a credential
    TENANT = "Tenant"


class Unit(StrEnum):
    """What a window counts."""

    REQUESTS = "Requests"
    COST = "Cost"
    REQUEST_BYTES = "RequestBytes"
    RESPONSE_BYTES = "ResponseBytes"


class Lane(StrEnum):
    """Which cache memory a tier's responses live in."""

    NONE = "None"
    SHARED = "Shared"
    DEDICATED = "Dedicated"


class OnStoreLoss(StrEnum):
    """What happens to requests while the region's Redis cannot decide."""

    LOCAL = "Local"
    OPEN = "Open"
    CLOSED = "Closed"


@dataclass(frozen=True, slots=True)
class Window:
    """At most `limit` of `unit` in any `period_seconds` that end now."""

    name: str
    limit: int
    period_seconds: int
    unit: Unit = Unit.REQUESTS


@dataclass(frozen=True, slots=True)
class CostRule:
    """A request of these methods (empty: all; GET is also HEAD) on this path template costs `cost`."""

    path: str
    cost: int
    methods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Admission:
    """How a tier's requests wait for a seat."""

    weight: int = 1
    max_in_flight: int = 100
    queue_max_wait_milliseconds: int = 1_000
    queue_max_depth: int = 100


@dataclass(frozen=True, slots=True)
class Cache:
    """Where and how long a tier's responses are cached; `memory_mebibytes` is 0 unless the lane is dedicated."""

    lane: Lane = Lane.NONE
    memory_mebibytes: int = 0
    ttl_seconds: int = 60
    stale_while_revalidate_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Tier:
    """A validated tier; make it with `from_spec`."""

    name: str
    windows: tuple[Window, ...]
    display_name: str = ""
    enforcement: Enforcement = Enforcement.ENFORCE
    partition_by: PartitionBy = PartitionBy.TOKEN
    costs: tuple[CostRule, ...] = ()
    admission: Admission = field(default_factory=Admission)
    cache: Cache = field(default_factory=Cache)
    retention_seconds: int = 86_400
    on_store_loss: OnStoreLoss = OnStoreLoss.LOCAL

    @classmethod
    def from_spec(cls, name: str, spec: object) -> Self:
        """The tier that `metadata.name` and `spec` of a RateLimitTier describe.

        Raises:
            InvalidTierError: With every violation at once, each with its path.
        """
        violations: list[Violation] = []
        if len(name) > 63 or not re.fullmatch(NAME_PATTERN, name):
            message = "must be a DNS label of 1..63 lower-case letters, digits and dashes"
            violations.append(Violation("metadata.name", "Invalid", message))
        reader = SpecReader(spec, "spec", violations)
        tier = cls(
            name=name,
            display_name=reader.text("displayName", pattern=r"(?s:.*)", maximum=63, default=""),
            enforcement=reader.choice("enforcement", Enforcement, Enforcement.ENFORCE),
            partition_by=reader.choice("partitionBy", PartitionBy, PartitionBy.TOKEN),
            windows=_windows(reader),
            costs=reader.items("costs", _cost_rule, maximum=16),
            admission=_admission(reader.child("admission")),
            cache=_cache(reader.child("cache")),
            retention_seconds=_retention_seconds(reader.child("idempotency")),
            on_store_loss=_on_store_loss(reader.child("degradation")),
        )
        reader.close()
        if violations:
            raise InvalidTierError(tuple(violations))
        return tier

    def to_spec(self) -> dict[str, Any]:
        """The canonical spec: every default filled in; `from_spec` of it gives an equal tier."""
        spec: dict[str, Any] = {
            "enforcement": str(self.enforcement),
            "partitionBy": str(self.partition_by),
            "windows": [_window_spec(window) for window in self.windows],
            "costs": [_cost_spec(rule) for rule in self.costs],
            "admission": _admission_spec(self.admission),
            "cache": _cache_spec(self.cache),
            "idempotency": {"retention": _seconds(self.retention_seconds)},
            "degradation": {"onStoreLoss": str(self.on_store_loss)},
        }
        return spec | ({"displayName": self.display_name} if self.display_name else {})

    @property
    def content_hash(self) -> str:
        """`sha256:` and the hex digest of the canonical spec."""
        text = json.dumps(self.to_spec(), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _windows(reader: SpecReader) -> tuple[Window, ...]:
    windows = reader.items("windows", _window, maximum=8, required=True)
    names = [window.name for window in windows]
    for index, name in enumerate(names):
        if name and name in names[:index]:
            reader.refuse(f"windows[{index}].name", "Duplicate", f"{name!r} names an earlier window too")
    return windows


def _window(reader: SpecReader) -> Window:
    period = reader.duration("period", pattern=SECONDS_PATTERN, bounds=("1s", "744h"))
    return Window(
        name=reader.text("name", pattern=WINDOW_NAME_PATTERN, maximum=32),
        limit=reader.integer("limit", minimum=1, maximum=MAXIMUM_LIMIT),
        period_seconds=period // 1000,
        unit=reader.choice("unit", Unit, Unit.REQUESTS),
    )


def _cost_rule(reader: SpecReader) -> CostRule:
    return CostRule(
        path=reader.text("path", pattern=PATH_PATTERN, maximum=256),
        cost=reader.integer("cost", minimum=0, maximum=1_000_000),
        methods=reader.strings("methods", METHODS),
    )


def _admission(reader: SpecReader) -> Admission:
    queue = reader.child("queue")
    admission = Admission(
        weight=reader.integer("weight", minimum=1, maximum=1_000, default=1),
        max_in_flight=reader.integer("maxInFlight", minimum=1, maximum=10_000, default=100),
        queue_max_wait_milliseconds=queue.duration("maxWait", pattern=MILLISECONDS_PATTERN, bounds=("0s", "60s"), default="1s"),
        queue_max_depth=queue.integer("maxDepth", minimum=0, maximum=100_000, default=100),
    )
    queue.close()
    reader.close()
    return admission


def _cache(reader: SpecReader) -> Cache:
    lane = reader.choice("lane", Lane, Lane.NONE)
    memory = reader.text("memory", pattern=MEMORY_PATTERN, maximum=8, default="")
    if memory and not 16 <= mebibytes(memory) <= 1024 * 1024:
        reader.refuse("memory", "Invalid", f"{memory} is outside 16Mi..1024Gi")
    if reader.has("memory") != (lane is Lane.DEDICATED):
        reader.refuse("memory", "Invalid", "must be set if and only if lane is Dedicated")
    ttl = reader.duration("ttl", pattern=SECONDS_PATTERN, bounds=("1s", "24h"), default="60s")
    stale = reader.duration("staleWhileRevalidate", pattern=SECONDS_PATTERN, bounds=("0s", "24h"), default="0s")
    reader.close()
    return Cache(lane, mebibytes(memory) if memory else 0, ttl // 1000, stale // 1000)


def _retention_seconds(reader: SpecReader) -> int:
    retention = reader.duration("retention", pattern=SECONDS_PATTERN, bounds=("24h", "744h"), default="24h")
    reader.close()
    return retention // 1000


def _on_store_loss(reader: SpecReader) -> OnStoreLoss:
    choice = reader.choice("onStoreLoss", OnStoreLoss, OnStoreLoss.LOCAL)
    reader.close()
    return choice


def _seconds(seconds: int) -> str:
    # A number of at most five digits per part is what the pattern takes, so long periods are written in hours first.
    hours, rest = divmod(seconds, 3600)
    return f"{hours}h{rest}s" if hours else f"{rest}s"


def _window_spec(window: Window) -> Mapping[str, Any]:
    period = _seconds(window.period_seconds)
    return {"name": window.name, "limit": window.limit, "period": period, "unit": str(window.unit)}


def _cost_spec(rule: CostRule) -> Mapping[str, Any]:
    spec: dict[str, Any] = {"path": rule.path, "cost": rule.cost}
    return spec | ({"methods": list(rule.methods)} if rule.methods else {})


def _admission_spec(admission: Admission) -> Mapping[str, Any]:
    queue = {"maxWait": f"{admission.queue_max_wait_milliseconds}ms", "maxDepth": admission.queue_max_depth}
    return {"weight": admission.weight, "maxInFlight": admission.max_in_flight, "queue": queue}


def _cache_spec(cache: Cache) -> Mapping[str, Any]:
    spec: dict[str, Any] = {
        "lane": str(cache.lane),
        "ttl": _seconds(cache.ttl_seconds),
        "staleWhileRevalidate": _seconds(cache.stale_while_revalidate_seconds),
    }
    return spec | ({"memory": _memory(cache.memory_mebibytes)} if cache.memory_mebibytes else {})


def _memory(mebibytes_: int) -> str:
    gibibytes, rest = divmod(mebibytes_, 1024)
    return f"{mebibytes_}Mi" if rest else f"{gibibytes}Gi"
