"""What a task reads: one file, or many that are one input. Nothing is opened here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self
from urllib.parse import unquote

from psicli.core.errors import (
    InputChangedError,
    InputMissingError,
    MalformedInputError,
    UnknownFormatError,
    printable,
    shown,
)
from psicli.core.formats import Dialect, FileFormat, file_format
from psicli.core.places import Place, Url, is_on_web
from psicli.core.records import dataclass
from psicli.storage.places.listing import Found, find_files, is_pattern, names_many

# More files take minutes to open one after the other, and gigabytes to remember.
MAX_PARTS = 100_000
# What Hive and Spark write in place of null.
_NULL = "__HIVE_DEFAULT_PARTITION__"

Values = tuple[tuple[str, str | None], ...]


class ListingChangedError(InputChangedError):
    """Facts: path, did, name."""

    sentence = "{path}: the file {did} while psicli was reading {name}"


@dataclass(frozen=True)
class Part:
    """One file of an input.

    name: what messages call it. values: the columns that its path gives to each of its rows; None is null. size:
    [bytes], as it was found.
    """

    place: Place
    format: FileFormat
    name: str
    values: Values = ()
    size: int = 0


@dataclass(frozen=True)
class Source:
    """The input of a task.

    name: what messages call it. parts: its files, in the order of their rows. places: what names them; empty for one
    file that was named itself. listing: the files as they were found.
    """

    name: str
    parts: tuple[Part, ...]
    places: tuple[Place, ...] = ()
    listing: tuple[Found, ...] = ()

    @classmethod
    def of_file(cls, place: Place, fmt: FileFormat, name: str | None = None) -> Self:
        """Return an input of one file."""
        name = name or str(place)
        return cls(name, (Part(place, fmt, name),))

    @property
    def is_one_file(self) -> bool:
        return not self.places

    def check_listing(self) -> None:
        """Raise InputChangedError if the places name other files by now, or one has changed; raises StorageError."""
        try:
            now = {each.place: each for each in _listed(self.places)}
        except InputMissingError as exc:
            raise ListingChangedError(path=self.name, did="disappeared", name="it") from exc
        before = {each.place: each for each in self.listing}
        for place, file in (before | now).items():
            if now.get(place) != before.get(place):
                did = "disappeared" if place not in now else "appeared" if place not in before else "changed"
                raise ListingChangedError(path=printable(file.place), did=did, name=self.name)


def find_source(
    places: Sequence[Place], dialect: Dialect, name: str, copies: Mapping[Place, Path] = MappingProxyType({})
) -> Source:
    """Find the files that make up an input; raises InputMissingError, StorageError, BadInputError.

    name: what messages call the input. copies: where to read the files of web servers.
    """
    if len(places) == 1 and _is_file(places[0]):
        fmt = file_format(places[0], dialect)
        return Source.of_file(copies.get(places[0]) or _absolute(places[0]), fmt, printable(name))
    listing, seen = _listed(places), set[Place]()
    if len(places) == 1 and [each.place for each in listing] == [*places]:
        # It is an object of a store.
        return Source.of_file(places[0], file_format(places[0], dialect), printable(name))
    if len(listing) > MAX_PARTS:
        fault = f"there are {len(listing):,} files, and an input has at most {MAX_PARTS:,}"
        raise InputMissingError(place=printable(name), fault=fault, advice="Join small files into larger ones.")
    for found in listing:
        if found.place in seen:
            fault = f"the file {printable(found.place)} is named twice, so its rows would count twice"
            raise InputMissingError(place=printable(name), fault=fault, advice="Name each file once in input_path.")
        seen.add(found.place)
    parts = tuple(_part(found, copies.get(found.place) or _absolute(found.place), dialect) for found in listing)
    _check_columns_of_paths(parts)
    return Source(printable(name), parts, tuple(places), tuple(listing))


def _is_file(place: Place) -> bool:
    """Return whether a place names one file, and neither a folder nor a pattern."""
    if isinstance(place, Url):
        # Only a store knows whether its URL names an object or what begins with it.
        return is_on_web(place)
    return not names_many(place)


def _listed(places: Sequence[Place]) -> list[Found]:
    return [found for place in places for found in _files_of(place)]


def _files_of(place: Place) -> list[Found]:
    if isinstance(place, Url) and is_on_web(place):
        return [Found(place, str(place), 0, 0)]
    if isinstance(place, Path) and _is_file(place):
        # A file that is not there is reported when it is opened.
        return find_files(place) or [Found(place, place.name, 0, 0)]
    found = find_files(place)
    if not found:
        raise InputMissingError(
            place=printable(place),
            fault="no file fits this pattern" if is_wild(place) else "there are no files in this folder",
            advice="Check input_path in the job file, and that the export is complete. Files and folders that begin "
            "with . or _ do not count.",
        )
    return found


def is_wild(place: Place) -> bool:
    """Return whether a place is a pattern."""
    return is_pattern(place) if isinstance(place, Path) else any(each in place.text for each in "*[")


def _part(found: Found, place: Place, dialect: Dialect) -> Part:
    name = printable(found.place)
    try:
        fmt = file_format(found.place, dialect)
    except UnknownFormatError as exc:
        raise InputMissingError(
            place=name,
            fault="the file has no known suffix",
            advice="Name the files with a pattern that leaves it out, such as in/*.csv, or rename it.",
        ) from exc
    return Part(place, fmt, name, _values(found.name, name), found.size)


def _values(path: str, name: str) -> Values:
    """Return the columns that the folders in a path give, as in `date=2026-01-01/region=de/x.parquet` of Hive."""
    folders = path.split("/")[:-1]
    pairs = [(key, value) for key, equals, value in (each.partition("=") for each in folders) if key and equals]
    values = {unquote(key): None if value == _NULL else unquote(value) for key, value in pairs}
    if len(values) < len(pairs):
        raise MalformedInputError(
            place=name,
            fault="two folders of its path give a value to the same column",
            advice="Move the files, or name one of the folders in input_path.",
        )
    return tuple(values.items())


def _check_columns_of_paths(parts: Sequence[Part]) -> None:
    """Check that the paths of all files give the same columns; raises MalformedInputError."""
    first = parts[0]
    expected = {name for name, _ in first.values}
    for part in parts:
        if different := expected.symmetric_difference(name for name, _ in part.values):
            column = min(different)
            without, having = (part, first) if column in expected else (first, part)
            raise MalformedInputError(
                place=without.name,
                fault=f"no folder of its path gives the column {shown(column)}, as one of {having.name} does",
                advice="Move the file, or name the files with a pattern that leaves it out.",
            )


def _absolute(place: Place) -> Place:
    return place.absolute() if isinstance(place, Path) else place
