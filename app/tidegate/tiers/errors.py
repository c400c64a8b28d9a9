"""What this room cannot do; turned into a response by `problems.py`."""

from tidegate.contract.errors import TidegateError


class TiersUnavailableError(TidegateError):
    """Neither the tier nor the default tier is known: without limits nobody is served."""
