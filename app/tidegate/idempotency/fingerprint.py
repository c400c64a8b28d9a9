"""The fingerprint that tells a retry from another request under the same key; called by `middleware.py`."""

import hashlib
from collections.abc import Iterable


def join(parts: Iterable[bytes]) -> bytes:
    """One byte string of `parts` from which they can be told apart: each is preceded by its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def fingerprint(*, method: str, path: str, query: str, content_type: str, body: bytes) -> bytes:
    """SHA-256 over what makes two requests the same (IDEM-5).

    The raw bytes count: a body with reordered members is another request, which is the safe mistake. The API's version is part of the path.
    """
    parts = (method.encode(), path.encode("utf-8", "surrogatepass"), query.encode("utf-8", "surrogatepass"), content_type.encode())
    return hashlib.sha256(join((*parts, hashlib.sha256(body).digest()))).digest()
