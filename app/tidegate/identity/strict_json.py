"""JSON objects without the ambiguities that parsers differ on; called by `compact.py`, `claims.py` and `key_set.py`."""

import json
from typing import Any, NoReturn


def loads(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        ValueError: Not UTF-8, not JSON, not an object, nested too deep, a member given twice, or NaN or Infinity; without any of the data.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_distinct, parse_constant=_refuse_constant)
    except UnicodeDecodeError as ex:
        raise ValueError("is not UTF-8") from ex
    except RecursionError as ex:
        raise ValueError("is nested too deep") from ex
    if not isinstance(value, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - the data is wrong, not the caller
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("has a member twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}")
