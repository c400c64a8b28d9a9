"""What admission raises; `problems.py` turns it into an answer."""

from tidegate.contract.errors import TidegateError


class NoSeatError(TidegateError):
    """All seats of this worker are taken and the request does not wait, or not any longer.

    Args:
        reason: Why, one of the outcomes of `measures.py`.
        wait_seconds: About how long the identity's next request would wait, None if nobody knows.
    """

    def __init__(self, reason: str, wait_seconds: float | None) -> None:
        super().__init__(f"no seat: {reason}")
        self.reason = reason
        self.wait_seconds = wait_seconds
