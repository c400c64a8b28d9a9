"""`CachePolicy`: what a resource says of its GET answers in its attribute `cached`; read by `middleware.py`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Lets the answers of a resource's GET routes be kept in the lane of the caller's tier, for the caller's tenant.

    An answer may depend on the tenant, the tier, `scopes`, path, query and `vary`, and on nothing else of the caller: not on `client_id` or
    `sub`. The handler may say less in `Cache-Control` (no-store, private, no-cache, max-age), never more than the tier's `ttl`.

    Args:
        vary: Request fields that choose among representations.
        scopes: Scopes that alter the answer; None: all that the token has.
        version: Of the representation; a new one leaves what was kept of the old one behind.
        stale_if_error_seconds: How long after its freshness an answer may stand in for a 5xx (RFC 5861).
    """

    vary: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None
    version: str = "1"
    stale_if_error_seconds: int = 0
