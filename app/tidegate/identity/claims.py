"""The claims of an access token (RFC 9068, TOK-1) and their rules; called by `tokens.py` once the signature is verified."""

from typing import Annotated

import msgspec

from tidegate.identity import strict_json
from tidegate.identity.errors import InvalidTokenError
from tidegate.identity.principal import Principal

MAXIMUM_LIFETIME_SECONDS = 15 * 60
LEEWAY_SECONDS = 30
"""How far the issuer's clock may be off ours."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Seconds = Annotated[int, msgspec.Meta(ge=0)]


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must say; `cnf` must be absent, since a token bound to a key is worth nothing as a plain bearer token (TOK-9)."""

    iss: Name
    sub: Name
    aud: str | list[str]
    exp: Seconds
    iat: Seconds
    jti: Name
    client_id: Name
    tenant: Name
    scope: str
    tier: Name
    nbf: Seconds = 0
    cnf: None = None

    def __post_init__(self) -> None:
        """Refuse control characters, and lone surrogates, which JSON can spell and UTF-8 cannot."""
        for text in (self.sub, self.jti, self.client_id, self.tenant, self.scope, self.tier):
            if not text.isprintable():
                raise ValueError("a name has characters that cannot be printed")

    @classmethod
    def from_payload(cls, payload: bytes) -> "Claims":
        """The claims in a verified payload.

        Raises:
            InvalidTokenError: A claim is missing or of another type than it must be.
        """
        try:
            return msgspec.convert(strict_json.loads(payload), cls)
        except ValueError as ex:
            raise InvalidTokenError(f"claims: {ex}") from ex

    def check(self, *, issuer: str, audience: str, now: float) -> None:
        """See that the token is meant for us and for `now` (seconds since the epoch).

        Raises:
            InvalidTokenError: It is not.
        """
        audiences = [self.aud] if isinstance(self.aud, str) else self.aud
        rules = (
            (self.iss == issuer, "iss is not our issuer"),
            (audience in audiences, "aud does not name us"),
            (0 < self.exp - self.iat <= MAXIMUM_LIFETIME_SECONDS, f"exp is not 1..{MAXIMUM_LIFETIME_SECONDS} s after iat"),
            (now < self.exp + LEEWAY_SECONDS, "expired"),
            (self.iat <= now + LEEWAY_SECONDS, "iat is in the future"),
            (self.nbf <= now + LEEWAY_SECONDS, "nbf is in the future"),
        )
        for is_kept, reason in rules:
            if not is_kept:
                raise InvalidTokenError(reason)

    def principal(self) -> Principal:
        """Whom the token speaks for."""
        return Principal(
            issuer=self.iss,
            tenant=self.tenant,
            client_id=self.client_id,
            subject=self.sub,
            tier=self.tier,
            scopes=frozenset(self.scope.split()),
            expires_at=self.exp,
        )
