"""Verifies access tokens and remembers the verified; called by `middleware.py` once a request."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from jwt import PyJWK, PyJWS, PyJWTError

from tidegate.identity.claims import Claims
from tidegate.identity.compact import parse
from tidegate.identity.errors import InvalidTokenError
from tidegate.identity.key_set import KeySet
from tidegate.identity.principal import Principal

MEMO_TOKENS = 8192
"""Verified tokens that a worker remembers: some 6 MB, and about as many clients as call one worker within a token's lifetime."""


class TokenVerifier:
    """Takes RFC 9068 access tokens of one issuer for one audience (TOK-1 to TOK-5).

    Args:
        keys: The issuer's keys; each is bound to its own algorithm.
        issuer: The only accepted `iss`.
        audience: What `aud` must be or contain.
        memo_tokens: How many verified tokens are remembered.
    """

    def __init__(self, keys: KeySet, *, issuer: str, audience: str, memo_tokens: int = MEMO_TOKENS) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._memo_tokens = memo_tokens
        self._memo: OrderedDict[bytes, Principal] = OrderedDict()
        self._memo_keys = keys.current()
        self._jws = PyJWS(algorithms=[])

    def verify(self, token: str, now: float) -> Principal:
        """Whom `token` speaks for at `now` (seconds since the epoch); a token seen before costs one look-up until it expires.

        Raises:
            InvalidTokenError: The token is not one we take.
        """
        keys = self._keys.current()
        if keys is not self._memo_keys:
            self._memo.clear()
            self._memo_keys = keys
        # By digest: neither the memory nor the timing of the look-up holds a usable token.
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        principal = self._memo.get(digest)
        if principal is not None and now < principal.expires_at:
            self._memo.move_to_end(digest)
            return principal
        principal = self._verify(token, keys, now)
        self._remember(digest, principal)
        return principal

    def _verify(self, token: str, keys: Mapping[str, PyJWK], now: float) -> Principal:
        compact = parse(token)
        key = keys.get(compact.key_id)
        if key is None:
            raise InvalidTokenError(f"unknown kid {compact.key_id}")
        if compact.algorithm != key.algorithm_name:
            raise InvalidTokenError(f"kid {compact.key_id} is a key for {key.algorithm_name}")
        try:
            self._jws.decode(token, key=key, algorithms=[key.algorithm_name])
        except PyJWTError as ex:
            raise InvalidTokenError(f"signature: {type(ex).__name__}") from ex
        claims = Claims.from_payload(compact.payload)
        claims.check(issuer=self._issuer, audience=self._audience, now=now)
        return claims.principal()

    def _remember(self, digest: bytes, principal: Principal) -> None:
        self._memo[digest] = principal
        self._memo.move_to_end(digest)
        if len(self._memo) > self._memo_tokens:
            self._memo.popitem(last=False)
