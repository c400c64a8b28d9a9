"""Why a request has no identity; raised by this room, turned into a response by `problems.py`."""

from tidegate.contract.errors import TidegateError


class TokenMissingError(TidegateError):
    """The request brings no Bearer token at all."""


class InvalidTokenError(TidegateError):
    """The token is not one we take; the text is the reason, for the log alone, and holds no part of the token but a well-formed key id."""


class InsufficientScopeError(TidegateError):
    """The token is sound, but lacks the `scope` that this request needs (RFC 6750, 3.1)."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this request needs a token with the scope {scope!r}")
        self.scope = scope
