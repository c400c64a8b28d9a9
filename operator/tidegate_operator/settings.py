"""Every setting of the operator, read once at start from `TIDEGATE_OPERATOR_*` variables; called by both entry points."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import msgspec
import yaml

from tidegate_operator.errors import SettingsError
from tidegate_operator.lane_site import LaneSite
from tidegate_operator.publisher import Publisher

PREFIX = "TIDEGATE_OPERATOR_"
_FILE = PREFIX + "REGIONS_FILE"
_REGION_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's settings. A field `log_level` is read from `TIDEGATE_OPERATOR_LOG_LEVEL`; one without default must be set.

    Args:
        regions_file: YAML or JSON file, a mapping from region name to the URL of that region's Redis; a secret, for URLs hold passwords.
        namespace: Namespace whose tiers are watched; empty: the one that the operator runs in.
        lanes: JSON, where dedicated cache lanes are made and of what (`lane_site.py`); empty: none are made.
        lane_key_file: Secret (>= 32 bytes) that the passwords of those lanes follow from; the workers have the same.
        lease: Name of the Lease in that namespace whose holder alone acts; empty: this operator is the only one.
        redis_timeout_seconds: Deadline of every call to a region's Redis.
        log_level: Lowest level that is logged: debug, info, warning or error.
        log_format: json, or plain for a terminal.
    """

    regions_file: Path
    namespace: str = ""
    lanes: str = ""
    lane_key_file: str = ""
    lease: str = ""
    redis_timeout_seconds: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    log_format: Annotated[str, msgspec.Meta(pattern="^(json|plain)$")] = "json"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings.

        Raises:
            SettingsError: A variable is missing, unknown or not allowed; the text names it.
        """
        given = {name.removeprefix(PREFIX).lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(set(given) - set(cls.__struct_fields__))
        if unknown:
            raise SettingsError(f"unknown setting {PREFIX}{unknown[0].upper()}")
        try:
            return msgspec.convert(given, cls, strict=False, dec_hook=lambda kind, value: kind(value))
        except msgspec.ValidationError as ex:
            raise SettingsError(_explain(str(ex))) from ex

    def lane_site(self) -> LaneSite | None:
        """Where dedicated cache lanes are made, None if nowhere.

        Raises:
            SettingsError: What is said of them cannot be read.
        """
        return LaneSite.read(self.lanes, source=PREFIX + "LANES") if self.lanes else None

    def lane_secret(self) -> bytes:
        """What the passwords of lanes follow from.

        Raises:
            SettingsError: The file cannot be read or holds fewer than 32 bytes.
        """
        name = f"{PREFIX}LANE_KEY_FILE {self.lane_key_file}"
        try:
            secret = Path(self.lane_key_file).read_bytes().rstrip(b"\r\n")
        except OSError as ex:
            raise SettingsError(f"{name}: {ex.strerror}") from ex
        if len(secret) < 32:
            raise SettingsError(f"{name}: holds {len(secret)} bytes, at least 32 are needed")
        return secret

    def publishers(self) -> list[Publisher]:
        """One for each region of the regions file.

        Raises:
            SettingsError: The file cannot be read or holds something else; the text holds nothing of an URL.
        """
        regions = _read_regions(self.regions_file)
        return [self._publisher(name, url) for name, url in regions.items()]

    def _publisher(self, name: str, url: str) -> Publisher:
        try:
            return Publisher.connect(name, url, timeout_seconds=self.redis_timeout_seconds)
        except ValueError as ex:
            # A password is what mostly breaks a URL.
            hint = "in a password, write / as %2F, # as %23, @ as %40"
            raise SettingsError(f"{_FILE} {self.regions_file}: the URL of {name} is none of a Redis ({hint}). {ex}") from None


def _read_regions(path: Path) -> dict[str, str]:
    try:
        regions = yaml.safe_load(path.read_text())
    except OSError as ex:
        raise SettingsError(f"{_FILE} {path}: {ex.strerror}") from ex
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's text quotes the file, which holds passwords.
        raise SettingsError(f"{_FILE} {path}: is not YAML") from None
    if not isinstance(regions, dict) or not regions:
        raise SettingsError(f"{_FILE} {path}: must map at least one region name to a Redis URL")
    for name, url in regions.items():
        if not isinstance(name, str) or not _REGION_NAME.fullmatch(name):
            raise SettingsError(f"{_FILE} {path}: a region's name must be a DNS label of 1..63 characters")
        if not isinstance(url, str):
            raise SettingsError(f"{_FILE} {path}: the URL of {name} is no text")
    return regions


def _explain(message: str) -> str:
    # msgspec names the field, people set variables.
    for field in Settings.__struct_fields__:
        for mark in (f"`$.{field}`", f"`{field}`"):
            message = message.replace(mark, PREFIX + field.upper())
    return message
