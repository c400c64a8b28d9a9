"""What the resources refuse; `problems.py` turns it into answers."""

from tidegate.contract.errors import TidegateError, Violation
from tidegate.idempotency.errors import DeterminateError


class RecordNotFoundError(DeterminateError):
    """The caller's tenant has no such object; other tenants' objects look the same (OWASP API1)."""


class PaymentDeclinedError(DeterminateError):
    """The payment provider took no money and will not."""


class PreconditionFailedError(TidegateError):
    """`If-Match` names another state of the resource; nothing was done, and the same key may be used with the right one."""


class InvalidContentError(TidegateError):
    """The body is not acceptable JSON; the text says why."""


class UnsupportedContentTypeError(TidegateError):
    """The body is not `application/json` in UTF-8."""


class InvalidMembersError(TidegateError):
    """The JSON is sound but its members are not; `violations` names every one."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        super().__init__(f"{len(violations)} found: {violations[0].path}: {violations[0].message}")
        self.violations = violations
