"""What a task reads: one file, or many that are one input. These are values; nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from psicli.core.formats import FileFormat
from psicli.core.places import Place


@dataclass(frozen=True)
class Part:
    """One file of an input.

    name: what messages call it. values: the columns that its path gives to each of its rows; None is null.
    """

    place: Place
    format: FileFormat
    name: str
    values: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Source:
    """The input of a task. name: what messages call it; parts: its files, in the order of their rows."""

    name: str
    parts: tuple[Part, ...]

    @classmethod
    def of_file(cls, place: Place, fmt: FileFormat, name: str | None = None) -> Self:
        """Return an input of one file."""
        name = name or str(place)
        return cls(name, (Part(place, fmt, name),))
