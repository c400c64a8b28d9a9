"""The steps that give a request its identity and hold it to its rights; wired by `application.py`."""

import time
from typing import Protocol

from falcon.asgi import Request, Response

from tidegate.contract.tier import Tier
from tidegate.identity.errors import InsufficientScopeError, InvalidTokenError, TokenMissingError
from tidegate.identity.pseudonym import Pseudonyms
from tidegate.identity.tokens import TokenVerifier


class Tiers(Protocol):
    """Where the middleware asks for a tier by name; never answers without limits."""

    def tier(self, name: str) -> Tier:
        """The tier of that name, or the default one."""


class IdentityMiddleware:
    """Puts `principal`, `tier` and `tids` on `req.context` of every resource that is not `public`."""

    def __init__(self, verifier: TokenVerifier, pseudonyms: Pseudonyms, tiers: Tiers) -> None:
        self._verifier = verifier
        self._pseudonyms = pseudonyms
        self._tiers = tiers

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, str]) -> None:
        """Verify the token.

        Raises:
            TokenMissingError: There is no Bearer token.
            InvalidTokenError: The token is not one we take, or there are two.
        """
        if resp.complete or getattr(resource, "public", False):
            return
        principal = self._verifier.verify(bearer_token(req.get_header("Authorization")), time.time())
        tier = self._tiers.tier(principal.tier)
        req.context.principal = principal
        req.context.tier = tier
        req.context.tids = self._pseudonyms.tids(principal.partition(tier.partition_by))


class AuthorizationMiddleware:
    """Lets a request pass whose token has the scope that its method needs: `scopes` of the resource, a mapping from methods to scopes.

    It runs before results are looked up, so whoever lost a right cannot read what was done with it either (PIPE-2).
    """

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, str]) -> None:
        """Check the scope.

        Raises:
            InsufficientScopeError: The token does not have it.
        """
        needed = getattr(resource, "scopes", {}).get("GET" if req.method == "HEAD" else req.method)
        if needed is not None and needed not in req.context.principal.scopes:
            raise InsufficientScopeError(needed)


def bearer_token(field: str | None) -> str:
    """The token in the value of the Authorization field.

    Raises:
        TokenMissingError: No such field, or another scheme.
        InvalidTokenError: More than one field.
    """
    if field is None:
        raise TokenMissingError("no Authorization field")
    if "," in field:
        # Falcon joins repeated fields with a comma, which no Bearer token has.
        raise InvalidTokenError("more than one Authorization field")
    scheme, _, token = field.partition(" ")
    if scheme.lower() != "bearer":
        raise TokenMissingError("the Authorization scheme is not Bearer")
    return token.strip(" ")
