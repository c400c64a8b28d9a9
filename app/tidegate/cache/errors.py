"""What the lanes cannot do; `problems.py` turns the first into an answer, `middleware.py` serves without the lane after the second."""

from tidegate.contract.errors import TidegateError


class NotCachedError(TidegateError):
    """The client wants a kept answer or none (`only-if-cached`), and there is none that it may have."""


class LaneUnavailableError(TidegateError):
    """The lane's Redis did not answer in time, or not as it must.

    Args:
        detail: Word for Cache-Status: lane-down or lane-full.
        reason: Class of the failure; no address, no password.
    """

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(f"the cache lane does not answer as it must: {reason}")
        self.detail = detail
        self.reason = reason
