"""Reads one object of a tier spec and gathers every violation with its path; called by `tier.py`."""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from tidegate.contract.durations import milliseconds
from tidegate.contract.errors import Violation

_Choice = TypeVar("_Choice", bound=StrEnum)
_Item = TypeVar("_Item")


class SpecReader:
    """A view of one JSON object of the spec that appends what is wrong to a shared list.

    Each read names the field, its rule and its default; a wrong value yields the default, so reading goes on and all
    violations come together. An explicit null of a field reads as absent, as the API server treats it.
    """

    def __init__(self, value: object, path: str, violations: list[Violation]) -> None:
        self._path = path
        self._violations = violations
        self._seen: set[str] = set()
        self._value: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            self.refuse("", "Invalid", f"must be an object, not {_kind(value)}")

    def refuse(self, field: str, reason: str, message: str) -> None:
        """Note a violation at `field` of this object, or at the object itself when `field` is empty."""
        self._violations.append(Violation(f"{self._path}.{field}" if field else self._path, reason, message))

    def integer(self, field: str, *, minimum: int, maximum: int, default: int | None = None) -> int:
        """An integer within bounds; required when there is no default."""
        value = self._take(field, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse_kind(field, value, "an integer")
            return minimum
        if not minimum <= value <= maximum:
            self.refuse(field, "Invalid", f"{value} is outside {minimum}..{maximum}")
            return minimum
        return value

    def text(self, field: str, *, pattern: str, maximum: int, default: str | None = None) -> str:
        """A string that matches `pattern` whole; required when there is no default."""
        value = self._take(field, default)
        if not isinstance(value, str):
            self._refuse_kind(field, value, "a string")
            return ""
        if not self.has(field):
            return value
        if not _is_encodable(value):
            self.refuse(field, "Invalid", "holds half of a surrogate pair, which is no character")
            return ""
        if not 1 <= len(value) <= maximum:
            self.refuse(field, "Invalid", f"must have 1..{maximum} characters, has {len(value)}")
            return ""
        if not re.fullmatch(pattern, value):
            self.refuse(field, "Invalid", f"{_quoted(value)} does not match {pattern}")
            return ""
        return value

    def choice(self, field: str, choices: type[_Choice], default: _Choice) -> _Choice:
        """One of an enumeration's values."""
        value = self._take(field, default)
        try:
            return choices(str(value))
        except ValueError:
            self.refuse(field, "Invalid", f"{_quoted(value)} is not one of {', '.join(choices)}")
            return default

    def duration(self, field: str, *, pattern: str, bounds: tuple[str, str], default: str | None = None) -> int:
        """A duration between two others; milliseconds."""
        text = self.text(field, pattern=pattern, maximum=64, default=default)
        value = milliseconds(text)
        if text and not milliseconds(bounds[0]) <= value <= milliseconds(bounds[1]):
            self.refuse(field, "Invalid", f"{text} is outside {bounds[0]}..{bounds[1]}")
        return value

    def child(self, field: str) -> "SpecReader":
        """The object at `field`; an absent one reads as empty."""
        value = self._take(field, {})
        return SpecReader(value, f"{self._path}.{field}", self._violations)

    def items(self, field: str, read: Callable[["SpecReader"], _Item], *, maximum: int, required: bool = False) -> tuple[_Item, ...]:
        """The objects of the list at `field`, each read by `read`."""
        value = self._take(field, None if required else [])
        if not isinstance(value, list):
            self._refuse_kind(field, value, "a list")
            return ()
        if len(value) > maximum or (required and not value):
            self.refuse(field, "Invalid", f"must have {int(required)}..{maximum} items, has {len(value)}")
            return ()
        return tuple(self._read_items(field, value, read))

    def strings(self, field: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """A list of distinct strings out of `allowed`; absent reads as empty, present must not be empty."""
        value = self._take(field, ())
        if value == ():
            return ()
        if not isinstance(value, list) or not value:
            self.refuse(field, "Invalid", f"must be a list of 1..{len(allowed)} items")
            return ()
        for index, item in enumerate(value):
            if item not in allowed:
                self.refuse(f"{field}[{index}]", "Invalid", f"{_quoted(item)} is not one of {', '.join(allowed)}")
            elif item in value[:index]:
                self.refuse(f"{field}[{index}]", "Duplicate", f"{_quoted(item)} appears twice")
        return tuple(item for item in value if isinstance(item, str))

    def has(self, field: str) -> bool:
        """Whether the field is present and not null."""
        return self._value.get(field) is not None

    def close(self) -> None:
        """Refuse every field that nobody read."""
        for field in self._value:
            if field not in self._seen:
                self.refuse(str(field), "Unknown", "unknown field")

    def _read_items(self, field: str, value: list[Any], read: Callable[["SpecReader"], _Item]) -> Iterator[_Item]:
        for index, item in enumerate(value):
            reader = SpecReader(item, f"{self._path}.{field}[{index}]", self._violations)
            if isinstance(item, Mapping):
                yield read(reader)
                reader.close()

    def _take(self, field: str, default: object) -> object:
        self._seen.add(field)
        value = self._value.get(field)
        return default if value is None else value

    def _refuse_kind(self, field: str, value: object, wanted: str) -> None:
        if value is None:
            self.refuse(field, "Required", "is required")
        else:
            self.refuse(field, "Invalid", f"must be {wanted}, not {_kind(value)}")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(value: object) -> str:
    # Long enough to recognize, too short to flood a log.
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
