"""Lines that are drawn anew in the same place while something goes on; called by the acts of the tour."""

import sys
from collections.abc import Sequence

_UP_AND_CLEAR = "\x1b[{lines}A\x1b[J"
"""Cursor to the beginning of so many lines above, and all below it away (ECMA-48, CUU and ED)."""


class Screen:
    """A place on the terminal; where standard output is none, as in a log, only `finish` shows anything."""

    def __init__(self) -> None:
        self._drawn = 0

    def draw(self, lines: Sequence[str]) -> None:
        """Show `lines` instead of those that were drawn last, on a terminal."""
        if sys.stdout.isatty():
            self.finish(lines)

    def finish(self, lines: Sequence[str]) -> None:
        """Show `lines` instead of those that were drawn last."""
        above = _UP_AND_CLEAR.format(lines=self._drawn) if self._drawn else ""
        print(above + "\n".join(lines), flush=True)
        self._drawn = len(lines)
