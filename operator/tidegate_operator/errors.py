"""What can go wrong while tiers are carried to regions; raised by the adapters, caught by the reconciler and by the entry points."""

from tidegate.contract.errors import TidegateError


class RegionUnreachableError(TidegateError):
    """A region's Redis did not answer in time or refused; the text names the region and the cause, never the address."""

    def __init__(self, region: str, cause: str) -> None:
        super().__init__(f"region {region}: {cause}")
        self.region = region
        self.cause = cause


class SourceUnavailableError(TidegateError):
    """The wanted tiers cannot be listed now; the last known ones stay."""


class ReportError(TidegateError):
    """A status could not be written; it is tried again."""


class SettingsError(TidegateError):
    """A variable or the regions file is missing or not allowed; the text names it and holds no address."""


class DirectoryError(TidegateError):
    """The directory of manifests is missing or holds none."""
