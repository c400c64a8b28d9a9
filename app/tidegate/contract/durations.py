"""Durations and memory sizes as tier specs write them (Gateway API GEP-2257, Kubernetes quantities); called by `tier.py`."""

import re

_UNIT_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_MEBIBYTES = {"Mi": 1, "Gi": 1024}


def milliseconds(duration: str) -> int:
    """Milliseconds of a duration such as `1h30m`; the caller has checked the text against its pattern."""
    return sum(int(count) * _UNIT_MILLISECONDS[unit] for count, unit in _PART.findall(duration))


def mebibytes(quantity: str) -> int:
    """MiB of a quantity such as `256Mi` or `4Gi`; the caller has checked the text against its pattern."""
    return int(quantity[:-2]) * _MEBIBYTES[quantity[-2:]]
