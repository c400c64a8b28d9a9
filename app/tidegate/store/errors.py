"""What the consistent store's adapters raise; `problems.py` turns them into answers."""

from tidegate.contract.errors import TidegateError


class StoreUnavailableError(TidegateError):
    """The store did not answer in time or refused; whether a commit took effect is unknown, a retry with the same key finds out."""


class StoreMisconfiguredError(TidegateError):
    """The store answers but may lose what it acknowledged; the text names the setting and what it must be."""


class StoreAilingError(TidegateError):
    """The store keeps what it acknowledged and goes on, but not for ever; the text says what to do."""


class StoreRefusedError(TidegateError):
    """The store takes no such request: too many writes or too large ones at once. Nothing was done; the fault is the caller's."""
