"""The cells of a table that its reader can sort. The macro `table` in parts.html.j2 draws it."""

from __future__ import annotations

from collections.abc import Sequence

from psicli.core.records import dataclass


@dataclass(frozen=True)
class Column:
    """A column; numbers are aligned at the right and sorted from the greatest."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell.

    value: what it is sorted by if that is not its text. state: a class of base.html.j2 (good, bad, warn, quiet) that
    makes its text a badge. below: a second, small line. href: a place in the page; link: another page. share: from 0 to
    1, as a bar. code: whether it is for machines, such as a digest.
    """

    text: str
    value: float | None = None
    state: str = ""
    below: str = ""
    href: str = ""
    link: str = ""
    share: float | None = None
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table with its name; total: a row at its end, which stays there."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell | str]]
    total: Sequence[Cell | str] | None = None
