"""Where a tier's dedicated cache lane is and what opens it; called by the operator that names it and the API that uses it.

A tier's document holds the address alone: the password follows from a secret that both mount, so that no published text holds one.
"""

import hmac
from base64 import urlsafe_b64encode

from tidegate.contract.codec import TierDocument


def lane_identity(document: TierDocument) -> str:
    """What tells a lane from every other one, also from that of a tier which had the name before."""
    return f"{document.tier.name}|{document.uid}"


def lane_password(secret: bytes, document: TierDocument) -> str:
    """The password of the lane's Redis: 43 characters that need no quoting."""
    derived = hmac.digest(secret, f"lane password|{lane_identity(document)}".encode(), "sha256")
    return urlsafe_b64encode(derived).rstrip(b"=").decode()


def lane_url(address: str, *, region: str, password: str = "") -> str:
    """The URL of a lane in `region`; `address` may hold `{region}`, as one document serves all of them."""
    url = address.replace("{region}", region)
    return f"{url}{'&' if '?' in url else '?'}password={password}" if password else url
