"""The keys of a local run, made once, and development tokens signed with them; called by `run.py`, `tour.py` and `commands/`."""

import json
import os
import secrets
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm
from jwt.utils import base64url_encode

from tidegate.local.errors import LocalRunError
from tidegate.local.layout import make_private_directory

ISSUER = "https://issuer.tidegate.localhost"
AUDIENCE = "https://api.tidegate.localhost"
TOKEN_SECONDS = 15 * 60
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Grant:
    """What a development token says of its bearer."""

    tier: str
    tenant: str = "acme"
    client: str = "demo"
    scope: str = "api payments"


class Keys:
    """The key files in a directory; made when missing, never changed.

    Raises:
        LocalRunError: A file cannot be written or is not what was written.
    """

    def __init__(self, directory: Path) -> None:
        self.token_keys = directory / "jwks.json"
        self.identity = directory / "identity.key"
        self.idempotency = directory / "idempotency.key"
        self.result = directory / "result.key"
        # The lanes of the local run need no password, as they listen on no port; those of `tilt up` do.
        self.lane = directory / "lane.key"
        self._issuer = directory / "issuer.pem"
        make_private_directory(directory)
        _write_once(self._issuer, _new_issuer_key())
        for path in (self.identity, self.idempotency, self.result, self.lane):
            _write_once(path, base64url_encode(secrets.token_bytes(SECRET_BYTES)))
        _write_once(self.token_keys, json.dumps({"keys": [_public_jwk(self._signer())]}, indent=2).encode())

    def mint(self, grant: Grant, *, now: float | None = None) -> str:
        """An access token (RFC 9068) for `grant`, valid for 15 minutes from `now` (seconds since the epoch)."""
        signer = self._signer()
        issued = int(time.time() if now is None else now)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": grant.client,
            "client_id": grant.client,
            "tenant": grant.tenant,
            "tier": grant.tier,
            "scope": grant.scope,
            "iat": issued,
            "exp": issued + TOKEN_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, signer, algorithm="ES256", headers={"typ": "at+jwt", "kid": _public_jwk(signer)["kid"]})

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        try:
            key = load_pem_private_key(self._issuer.read_bytes(), password=None)
        except (OSError, ValueError) as ex:
            raise LocalRunError(f"the key {self._issuer} cannot be read; delete {self._issuer.parent} to have new ones made") from ex
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise LocalRunError(f"the key {self._issuer} is not an elliptic-curve key; delete {self._issuer.parent} to have new ones made")
        return key


def _new_issuer_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    jwk: dict[str, str] = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # RFC 7638: the thumbprint names the key, so that a changed key never keeps its name.
    digest = Hash(SHA256())
    digest.update(json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, separators=(",", ":")).encode())
    return {**jwk, "kid": base64url_encode(digest.finalize()).decode(), "use": "sig", "alg": "ES256"}


def _write_once(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as ex:
        raise LocalRunError(f"cannot write {path}: {ex.strerror}") from ex
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
