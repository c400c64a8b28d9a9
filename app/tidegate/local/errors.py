"""What can go wrong with a local run, in sentences for the person at the terminal; raised in this room, printed by `cli.py`."""

from tidegate.contract.errors import TidegateError


class LocalRunError(TidegateError):
    """The run cannot start or go on; the text says why and what to do."""


class ExpectationError(TidegateError):
    """An assertion of the tour failed; the text says what was expected and what came."""
