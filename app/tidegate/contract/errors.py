"""The root of Tidegate's errors and the ones both sides raise.

Caught by `problems.py` in the API and by the reconcile core in the operator.
"""

from dataclasses import dataclass


class TidegateError(Exception):
    """Anything that Tidegate refuses or cannot do; the text is for people and holds no secret."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule of a spec: where it is, why it is refused and what is allowed.

    Args:
        path: Place in the object, as in `spec.windows[0].limit`.
        reason: CamelCase kind: Required, Invalid, Duplicate, Unknown, Forbidden.
        message: One sentence for a person.
    """

    path: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidTierError(TidegateError):
    """A tier's spec breaks rules; `violations` names every one of them at once."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        super().__init__("; ".join(map(str, violations)))
        self.violations = violations


class InvalidDocumentError(TidegateError):
    """A tier document read from Redis is not one that the codec wrote."""
