"""Reads `Cache-Control` (RFC 9111, 5.2): what is garbage counts as the strictest that it could mean; called by `freshness.py`."""

import re
from collections.abc import Mapping
from typing import TypeAlias

MOST_SECONDS = 2**31 - 1
"""RFC 9111, 1.2.2: what is greater counts as this."""

Directives: TypeAlias = Mapping[str, tuple[str, ...]]
"""Names in lower case, each with its arguments in order; a directive without one has ""."""

_DIRECTIVE = re.compile(r"""([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,]*))?""")


def read_directives(field: str | None) -> Directives:
    """The directives of a field's value; never fails."""
    found: dict[str, tuple[str, ...]] = {}
    for name, argument in _DIRECTIVE.findall(field or ""):
        lower = name.lower()
        found[lower] = (*found.get(lower, ()), argument[1:-1] if argument[:1] == argument[-1:] == '"' else argument)
    return found


def seconds_of(given: Directives, name: str) -> int | None:
    """The least of a directive's arguments; 0 if one is no number, None without the directive."""
    if name not in given:
        return None
    return min(_seconds(text) for text in given[name])


def _seconds(text: str) -> int:
    # Eleven digits say all there is to know, and thousands would be refused by Python.
    return min(int(text[:11]), MOST_SECONDS) if text.isascii() and text.isdigit() else 0
