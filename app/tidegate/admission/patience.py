"""How long a client will wait, and how long it is told to; called by the middleware and by `problems.py`."""

import math
import random
import re

UNKNOWN_SECONDS = 1.0
"""A wait that nobody can foretell."""
LONGEST_SECONDS = 60.0
"""Overload is over, or another, long before virtual time could say so truly."""
SPREAD = 0.5
"""Clients that were refused together come back up to this share of the wait apart, and at least over a second."""

_WAIT = re.compile(r'(?:^|,)\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=[,;]|$)', re.IGNORECASE)


def preferred_wait_seconds(prefer: str | None) -> float:
    """What the field `Prefer` says of `wait` (RFC 7240, 4.3), from the receipt of the request on; infinite without a word.

    The one registered field by which an HTTP client states its deadline; `grpc-timeout` is another protocol's, and the various
    `Request-Timeout` are nobody's. The first of several counts (RFC 7240, 2); what cannot be read is as if it were not there.
    """
    found = _WAIT.search(prefer) if prefer else None
    return float(found[1]) if found else math.inf


def retry_after_seconds(wait_seconds: float | None) -> int:
    """Whole seconds for `Retry-After`, jittered upwards; at least 1.

    Args:
        wait_seconds: About how long the next request would wait; None: nobody knows.
    """
    seconds = min(LONGEST_SECONDS, UNKNOWN_SECONDS if wait_seconds is None else wait_seconds)
    return max(1, math.ceil(seconds + random.uniform(0, max(1.0, SPREAD * seconds))))  # noqa: S311 - spreads load, hides nothing
