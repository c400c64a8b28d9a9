"""Whether an answer may be kept and how long it is fresh, and whether a kept one may be served.

RFC 9111, 3 and 4. Pure; called by `middleware.py` and `reuse.py`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from math import log
from typing import Self

from msgspec.structs import replace

from tidegate.cache.directives import MOST_SECONDS, Directives, read_directives, seconds_of
from tidegate.cache.entry import Entry
from tidegate.cache.policy import CachePolicy
from tidegate.contract.tier import Cache

MAXIMUM_BYTES = 1_048_576
"""Of a body that is kept: a lane of the least memory holds sixteen of them."""
JITTER = 0.1
"""At most this part of a lifetime is left out, so that what was stored together is not stale together."""
NEVER_STALE = frozenset({"must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"})
OF_ONE_EXCHANGE = frozenset(
    {"age", "cache-status", "connection", "content-length", "date", "keep-alive", "proxy-authenticate", "proxy-authentication-info"}
    | {"proxy-connection", "ratelimit", "ratelimit-policy", "server-timing", "te", "tidegate-limits", "tidegate-region", "trailer"}
    | {"transfer-encoding", "upgrade", "x-request-id"}
)
"""Fields that are never kept: hop by hop (RFC 9111, 3.1), or said anew for each answer (RL-9)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long an answer is kept; seconds, as in `Entry`."""

    initial_age: int
    fresh_seconds: float
    stale_seconds: int
    error_seconds: int


def terms_of(status: int, headers: Mapping[str, str], size: int, *, cache: Cache, policy: CachePolicy, now: float) -> Terms | str:
    """The terms, or the word that says in Cache-Status why it is not kept; `headers` have names in lower case, `size` is the body's."""
    given = read_directives(headers.get("cache-control"))
    age, lifetime = (
        _initial_age(headers.get("age"), headers.get("date"), now),
        _lifetime(given, headers.get("expires"), cache.ttl_seconds, now),
    )
    refusals = {
        # Errors, refusals and redirects are answered anew each time (CACHE-10).
        "status": status != 200,
        "no-store": not given.keys().isdisjoint({"no-store", "private", "no-cache"}),
        "set-cookie": "set-cookie" in headers,
        "vary": not _names(headers.get("vary", "")) <= {name.lower() for name in policy.vary},
        "too-large": size > MAXIMUM_BYTES,
        "age": age is None,
        "expired": lifetime <= (age or 0),
    }
    if age is None or any(refusals.values()):
        return next(word for word, holds in refusals.items() if holds)
    if not given.keys().isdisjoint(NEVER_STALE):
        return Terms(age, lifetime, 0, 0)
    stale = _least(seconds_of(given, "stale-while-revalidate"), cache.stale_while_revalidate_seconds)
    return Terms(age, lifetime, stale, _least(seconds_of(given, "stale-if-error"), policy.stale_if_error_seconds))


def jittered(seconds: float) -> float:
    """A lifetime a little shorter, never longer."""
    return seconds * random.uniform(1 - JITTER, 1)  # noqa: S311 - spreads load, hides nothing


def outward(headers: Mapping[str, str]) -> dict[str, str]:
    """What caches beyond us are told: a tenant's data is the client's alone, unless the handler calls it public (CACHE-6).

    Not s-maxage, which would let a cache keep it that knows nothing of tenants.
    """
    field = headers.get("cache-control")
    if is_public(field):
        return {}
    given = read_directives(field)
    private = {"cdn-cache-control": "no-store"}
    if "no-store" in given or "private" in given:
        return private
    max_age = seconds_of(given, "max-age")
    return private | {"cache-control": "private, no-cache" if max_age is None or "no-cache" in given else f"private, max-age={max_age}"}


def is_public(field: str | None) -> bool:
    """Whether a handler's `Cache-Control` lets caches beyond us keep its answer; of a contradiction the stricter half counts."""
    given = read_directives(field)
    return "public" in given and given.keys().isdisjoint({"private", "no-store"})


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client asks of caches with its `Cache-Control`; seconds.

    Args:
        no_store: Nothing is to be kept of this exchange.
        only_if_cached: A kept answer or none.
        maximum_age: Of an answer; None: any.
        minimum_ttl: That the answer must have left.
    """

    no_store: bool = False
    only_if_cached: bool = False
    maximum_age: int | None = None
    minimum_ttl: int = 0

    @classmethod
    def read(cls, field: str | None) -> Self:
        """The wish in the value of the field."""
        if not field:
            return cls()
        given = read_directives(field)
        maximum_age = 0 if "no-cache" in given else seconds_of(given, "max-age")
        return cls("no-store" in given, "only-if-cached" in given, maximum_age, seconds_of(given, "min-fresh") or 0)

    @property
    def is_plain(self) -> bool:
        """Whether an answer of any age will do."""
        return self.maximum_age is None and not self.minimum_ttl


def within(entry: Entry, cache: Cache) -> Entry:
    """The entry as its tier has it now, which may be stricter than when it was kept."""
    fresh_seconds = min(entry.fresh_seconds, cache.ttl_seconds)
    stale_seconds = min(entry.stale_seconds, cache.stale_while_revalidate_seconds)
    if (fresh_seconds, stale_seconds) == (entry.fresh_seconds, entry.stale_seconds):
        return entry
    return replace(entry, fresh_seconds=fresh_seconds, stale_seconds=stale_seconds)


class Verdict(Enum):
    """What a kept answer is good for."""

    FRESH = "fresh"
    STALE = "stale, may be served while it is refreshed"
    EXPIRED = "stale"
    UNWANTED = "fresh, but not as the client wishes"


def judge(entry: Entry, wish: Wish, now: float) -> Verdict:
    """Whether `entry` may be served."""
    ttl = entry.ttl(now)
    if ttl <= 0:
        return Verdict.STALE if wish.is_plain and -ttl < entry.stale_seconds else Verdict.EXPIRED
    is_too_old = wish.maximum_age is not None and (wish.maximum_age == 0 or entry.age(now) > wish.maximum_age)
    return Verdict.UNWANTED if is_too_old or ttl < wish.minimum_ttl else Verdict.FRESH


def may_stand_in(entry: Entry, wish: Wish, now: float) -> bool:
    """Whether `entry` may be served in place of a 5xx."""
    return wish.is_plain and -entry.ttl(now) < entry.error_seconds


def is_due_early(entry: Entry, now: float) -> bool:
    """Whether this hit, by chance, refreshes before the freshness ends: the dearer and the nearer the end, the likelier.

    XFetch of Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention (VLDB 2015), with beta = 1.
    """
    return -entry.cost_seconds * log(1 - random.random()) >= entry.ttl(now)  # noqa: S311 - spreads load, hides nothing


def _lifetime(given: Directives, expires: str | None, ttl_seconds: int, now: float) -> int:
    told = seconds_of(given, "s-maxage" if "s-maxage" in given else "max-age")
    if told is None and expires is not None:
        until = _read_date(expires)
        told = 0 if until is None else int(until - now)
    return _least(told, ttl_seconds)


def _initial_age(field: str | None, date: str | None, now: float) -> int | None:
    made_at = _read_date(date) if date else None
    parts = [part.strip() for part in field.split(",")] if field is not None else []
    if not all(part.isascii() and part.isdigit() for part in parts):
        return None
    # Of several the greatest: whoever is wrong, it is no younger. Eleven digits as in `seconds_of`.
    told = [int(part[:11]) for part in parts]
    return min(max(0, int(now - made_at) if made_at is not None else 0, *told), MOST_SECONDS)


def _read_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _names(field: str) -> set[str]:
    return {name.strip().lower() for name in field.split(",") if name.strip()}


def _least(told: int | None, bound: int) -> int:
    return bound if told is None else min(told, bound)
