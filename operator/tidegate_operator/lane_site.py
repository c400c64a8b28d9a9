"""Where dedicated cache lanes are made and of what, as the chart tells it; read by `settings.py`, used by `lane_objects.py`, `lanes.py`."""

from typing import Annotated, Any

import msgspec

from tidegate_operator.errors import SettingsError

LONGEST_REGION = 20
"""Characters of a region's name for which a lane's name is short enough (`lane_objects.py`)."""


class LaneRegion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region of this release.

    Args:
        clients: Labels of the pods that may connect to its lanes.
        pod: Fields of a lane's pod: where it runs and as whom.
    """

    clients: dict[str, str]
    pod: dict[str, Any]


class LaneSite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all lanes of this release share.

    Args:
        labels: Of everything that a lane is made of; they tell this release's from another's in the same namespace.
        container: Fields of a lane's container: image, security, CPU.
        regions: By name. Lanes are made in no others.
    """

    labels: dict[str, str]
    container: dict[str, Any]
    regions: dict[Annotated[str, msgspec.Meta(max_length=LONGEST_REGION)], LaneRegion]

    @classmethod
    def read(cls, text: str, *, source: str) -> "LaneSite":
        """Read JSON.

        Raises:
            SettingsError: It holds something else; the text names `source`.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as ex:
            raise SettingsError(f"{source}: {ex}") from ex
