"""What the idempotency room refuses; `problems.py` turns it into answers."""

from tidegate.contract.errors import TidegateError


class KeyMissingError(TidegateError):
    """A mutation without an `Idempotency-Key`."""


class KeyInvalidError(TidegateError):
    """The `Idempotency-Key` is not one quoted string of allowed length."""


class KeyReusedError(TidegateError):
    """The key belongs to an earlier, different request."""


class MutationConflictError(TidegateError):
    """Other mutations kept changing the same data; nothing was done, a retry may succeed."""


class InvalidRecordError(TidegateError):
    """A stored result is not one that `record.py` wrote; the mutation is refused rather than run again."""


class DeterminateError(TidegateError):
    """A handler's final answer that is an error: stored and replayed like a success (IDEM-10); resources derive theirs from it."""


class KeyExpiredError(TidegateError):
    """The key's result is kept no longer, but it must not be used again (IDEM-22)."""


class MutationInProgressError(TidegateError):
    """The same request is being carried out elsewhere."""


class OutcomeUnknownError(TidegateError):
    """This or an earlier attempt may have had an effect outside, and nobody can tell yet (IDEM-12)."""


class ClaimLostError(TidegateError):
    """Another worker claimed the mutation meanwhile; `middleware.py` answers with what that one did."""


class ResultTooLargeError(TidegateError):
    """A handler's answer is larger than is stored; nothing is (IDEM-21), and its effect outside, if it had one, stays unknown."""
