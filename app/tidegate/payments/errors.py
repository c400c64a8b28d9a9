"""What a payment provider's adapter raises; `problems.py` turns it into answers."""

from tidegate.contract.errors import TidegateError


class ProviderUnavailableError(TidegateError):
    """The provider did not answer, or with something that says nothing; whether it took money is unknown."""


class ChargeDeclinedError(TidegateError):
    """The provider took no money and will not."""
