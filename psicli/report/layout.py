"""Text that fits the terminal it is shown on: tables, wrapped lines and colours.

A pipe, a file and a mail get the same text in full: nothing is wrapped, shortened or coloured there.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import zip_longest
from typing import IO

import click

from psicli.core.records import dataclass

# The width of a terminal that does not say how wide it is [columns].
USUAL_WIDTH = 80
# A column of a table becomes no narrower than this [columns].
LEAST_WIDTH = 8
GAP = "  "
_ELLIPSIS = "…"


@dataclass(frozen=True)
class Screen:
    """The place where a text is shown. width: the columns of a terminal; None if no line is wrapped or shortened."""

    width: int | None = None
    colour: bool = False

    @classmethod
    def of(cls, stream: IO[str]) -> Screen:
        """Return the screen behind a stream; colours are off with NO_COLOR and on a dumb terminal."""
        if not stream.isatty():
            return cls()
        width = 0
        with suppress(OSError, ValueError):
            width = os.get_terminal_size(stream.fileno()).columns
        colour = not os.environ.get("NO_COLOR") and knows_escapes()
        return cls(width or USUAL_WIDTH, colour)

    def paint(self, text: str, colour: str | None) -> str:
        """Colour a text where the screen has colours."""
        return click.style(text, fg=colour) if self.colour and colour else text

    def paint_at(self, line: str, column: int, text: str, colour: str | None) -> str:
        """Colour a text where a line of a table holds it at this column; a cell that was shortened stays as it is."""
        before, after = line[:column], line[column:]
        return before + self.paint(text, colour) + after.removeprefix(text) if after.startswith(text) else line

    def wrap(self, text: str, *, indent: int = 2) -> str:
        """Break the lines of a text that are too long; what follows a break is indented [columns]."""
        if self.width is None:
            return text
        # A path or a checksum that is wider than the screen stays whole, to be copied.
        return "\n".join(part for line in text.splitlines() for part in _wrapped(line, self.width, indent) or [""])


def knows_escapes() -> bool:
    """Return whether a terminal understands escape sequences; one that calls itself dumb does not."""
    return os.environ.get("TERM") != "dumb"


# The screen of a pipe or a file: no width and no colours.
PLAIN = Screen()


def shorten(text: str, width: int) -> str:
    """Leave out the middle of a text that is too long [columns]."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return text[: width - 1 - end] + _ELLIPSIS + text[len(text) - end :]


def table(rows: Sequence[Sequence[str]], screen: Screen = PLAIN, *, right: Collection[int] = ()) -> list[list[str]]:
    """Return the lines of each row, all columns aligned; the columns numbered in `right` are right-aligned.

    Where the table is wider than the screen, the widest columns become narrower and their cells get several lines.
    Right-aligned columns hold numbers and keep their width.
    """
    widths = [max(map(len, texts)) for texts in zip(*rows, strict=True)]
    if screen.width is not None:
        floors = [width if at in right else min(width, LEAST_WIDTH) for at, width in enumerate(widths)]
        words = [max(map(_longest_word, texts)) for texts in zip(*rows, strict=True)]
        # Words stay whole as long as there is room for them.
        for narrowest in (map(max, floors, words), floors):
            _narrow(widths, list(narrowest), screen.width)
    return [_lines(row, widths, right) for row in rows]


def table_or_paragraphs(
    rows: Sequence[Sequence[str]],
    narrow: Sequence[Sequence[str]],
    below: Sequence[str],
    screen: Screen,
    *,
    right: Collection[str] = (),
) -> list[list[str]]:
    """Return the lines of each row as a table, or in paragraphs where the table is wider than the screen.

    narrow: the rows with fewer columns; below: the text below each of them, which holds the rest. The first row is the
    header; right: the names of columns that are right-aligned.
    """
    numbers, narrow_numbers = ([at for at, name in enumerate(each[0]) if name in right] for each in (rows, narrow))
    blocks = table(rows, right=numbers)
    if screen.width is None or all(len(line) <= screen.width for lines in blocks for line in lines):
        return blocks
    blocks = table(narrow, screen, right=narrow_numbers)
    return [
        lines + screen.wrap(GAP + text if text else "").splitlines() for lines, text in zip(blocks, below, strict=True)
    ]


def _narrow(widths: list[int], narrowest: Sequence[int], room: int) -> None:
    """Make the widest columns narrower until all fit, or none can become narrower [columns]."""
    for _ in range(sum(widths) + len(GAP) * (len(widths) - 1) - room):
        spare = [at for at, width in enumerate(widths) if width > narrowest[at]]
        if not spare:
            return
        widths[max(spare, key=lambda at: widths[at])] -= 1


def _longest_word(text: str) -> int:
    return max(map(len, _Wrapper.wordsep_re.split(text)))


def _lines(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    """Return the lines of a row; a cell has as many lines as it needs, and a word that is too long is shortened."""
    columns = [_wrapped(text, width, 0, _Cell) for text, width in zip(row, widths, strict=True)]
    lines = []
    for parts in zip_longest(*columns, fillvalue=""):
        sized = zip(parts, widths, strict=True)
        cells = [part.rjust(width) if at in right else part.ljust(width) for at, (part, width) in enumerate(sized)]
        lines.append(GAP.join(cells).rstrip())
    return lines or [""]


def in_words(moment: str) -> str:
    """Return an ISO 8601 time in UTC as people write it; any other text stays as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return moment


class _Wrapper(textwrap.TextWrapper):
    """Breaks a text at spaces, and a path after a slash."""

    wordsep_re = re.compile(r"(\s+|(?<=[^\s/]/)(?=[^\s/]))")


class _Cell(_Wrapper):
    """The same for a cell of a table, which must not become wider: a word that is too long is shortened."""

    def _split(self, text: str) -> list[str]:
        room = self.width - len(self.subsequent_indent)
        return [shorten(word, room) if word.strip() else word for word in super()._split(text)]


def _wrapped(text: str, width: int, indent: int, kind: type[_Wrapper] = _Wrapper) -> list[str]:
    """Return the lines of one line of text; it keeps its own indent."""
    if len(text) <= width:
        return [text] if text else []
    own = " " * (len(text) - len(text.lstrip()))
    wrapper = kind(width, initial_indent=own, subsequent_indent=own + " " * indent, break_long_words=False)
    return wrapper.wrap(text.lstrip())
