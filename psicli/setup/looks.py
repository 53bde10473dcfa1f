"""Reads the first rows of a file, and tells what each of its columns holds."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from psicli.core import signals
from psicli.core.errors import (
    BadInputError,
    ColumnError,
    InputMissingError,
    MalformedInputError,
    PsicliError,
    printable,
)
from psicli.core.formats import FileFormat, Format, file_format
from psicli.core.records import dataclass
from psicli.items.forms.names import Form
from psicli.items.spelling import patterns
from psicli.setup import names
from psicli.storage.places.listing import names_many
from psicli.tables import open_input

# At most so many rows and values of a file are read, and so many of its columns are looked at.
SAMPLED_ROWS = 100_000
_SAMPLED_VALUES = 4_000_000
MOST_COLUMNS = 255
# A column has a look if this share of its values has.
_SHARE = 0.9
# Serial numbers have at least this share of the numbers from the first to the last one.
_DENSE = 0.5

EMAIL, PHONE, UUID, SHA256, HASH = "e-mail addresses", "phone numbers", "UUIDs", "SHA-256 hashes", "hashes"
DATE, TIME, INTEGER, FRACTION = "dates", "times", "whole numbers", "numbers with a fraction"
TEXT = "text"
# A UUID in any spelling. Without hyphens, it looks like a hash.
ANY_UUID = r"(?i)^(urn:uuid:)?\{?[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\}?$"
_CERTAIN_UUID = r"(?i)^(urn:uuid:|\{)[0-9a-f]{8}|^[0-9a-f]{8}-[0-9a-f]{4}"
_DATE = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}$|{patterns.DATE}"
# The first one that fits is the look of a column. Spaces around a value do not count.
_LOOKS = (
    (EMAIL, r"^[^@]*[^@\s<>]+@[^@\s<>]+\.\p{L}{2,}[^@]*$"),
    (SHA256, "^[0-9A-Fa-f]{64}$"),
    (UUID, ANY_UUID),
    (HASH, "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{56}|[0-9A-Fa-f]{96}|[0-9A-Fa-f]{128})$"),
    (DATE, _DATE),
    # Among times, a date is one at midnight.
    (TIME, f"{_DATE}|{patterns.TIME}"),
    (INTEGER, r"^[+-]?[0-9]+(\.0*)?$"),
    (FRACTION, r"^[+-]?[0-9]*[.,][0-9]+$"),
)
PHONE_NUMBER = r"(?i)^(tel:)?[+(]?[0-9][0-9 ()./\x{A0}\x{2010}-\x{2013}-]{4,24}((x|ext\.?) ?[0-9]+)?$"
# Fewer values with a country code could be numbers of any kind.
_SHARE_WITH_CODE = 0.3
# Values that never name a column, and others that seldom do: some tables have a column for every year or day.
_DATA = re.compile(
    r"\s*(\S+@\S+\.\S+|[0-9a-fA-F]{32,}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\+[0-9][0-9 ()./-]{6,})\s*"
)
_NUMBER = re.compile(r"\s*([+-]?[0-9]+([.,][0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?)\s*")
_DELIMITERS = (";", "\t", "|", ",")
# Readers name the right encoding in their advice, because they have seen the bytes.
_ENCODING = re.compile(r"`csv\.encoding: ([a-z0-9-]+)`")
_ONE_FILE = "Give one file with the same columns, then write the folder, pattern, URL or database into the job file."
_OF_A_JOB_FILE = "Check input_path in the job file; relative paths start at the job file's folder."


@dataclass(frozen=True, eq=False)
class Column:
    """The first values of a column, as a pa.LargeStringArray without null and empty ones.

    rows: how many were read. converted: distinct values in some forms, so that none is made twice.
    """

    name: str
    texts: Any
    rows: int
    converted: dict[tuple[Form, int], Any] = field(default_factory=dict)

    @cached_property
    def trimmed(self) -> Any:
        return pc.utf8_trim_whitespace(self.texts)

    @cached_property
    def distinct(self) -> int:
        return int(pc.count_distinct(self.texts).as_py())

    @property
    def filled_share(self) -> float:
        return len(self.texts) / max(self.rows, 1)

    @property
    def distinct_share(self) -> float:
        return self.distinct / max(len(self.texts), 1)

    def share(self, pattern: str) -> float:
        """Return the share of the values that match a pattern of RE2, without the spaces around them."""
        found = pc.match_substring_regex(self.trimmed, pattern=pattern)
        return int(found.true_count) / max(len(self.texts), 1)

    def mostly(self, pattern: str) -> bool:
        return self.share(pattern) >= _SHARE

    def has(self, pattern: str) -> bool:
        return self.share(pattern) > 0

    @cached_property
    def is_serial(self) -> bool:
        """Whether these are whole numbers with few gaps: two such columns have equal values by chance."""
        if self.look != INTEGER:
            return False
        numbers = pc.replace_substring_regex(self.trimmed, pattern=r"^\+|\.0*$", replacement="")
        numbers = numbers.filter(pc.match_substring_regex(numbers, pattern="^-?[0-9]{1,18}$")).cast(pa.int64())
        ends = pc.min_max(numbers)
        distinct = pc.count_distinct(numbers).as_py()
        return bool(distinct and distinct >= _DENSE * (ends["max"].as_py() - ends["min"].as_py() + 1))

    @cached_property
    def look(self) -> str:
        """What nearly all values of the column are."""
        if not len(self.texts):
            return TEXT
        look = next((look for look, pattern in _LOOKS if self.mostly(pattern)), TEXT)
        if look == UUID and names.concept(self.name) != names.UUID and not self.has(_CERTAIN_UUID):
            return HASH
        if look in (TEXT, INTEGER) and self.mostly(PHONE_NUMBER):
            with_code = r"^(tel:)?\+" if look == TEXT else patterns.E164
            if names.concept(self.name) == names.PHONE or self.share(with_code) >= _SHARE_WITH_CODE:
                return PHONE
        return look


class Table(NamedTuple):
    """A file: where it is, how it is written, and those of its columns that can be keys, by name."""

    path: Path
    format: FileFormat
    columns: dict[str, Column]


def _check_single(path: Path) -> None:
    """Raise InputMissingError for a folder, a pattern, a URL and a database."""
    # A path joins the slashes of a URL.
    is_elsewhere = not path.exists() and any(":" in part for part in path.parts[:1])
    if names_many(path) or is_elsewhere:
        fault = "`psicli init` looks into one file of this machine"
        raise InputMissingError(place=printable(path), fault=fault, advice=_ONE_FILE)


def read_table(path: Path) -> Table:
    """Look into a file; raises BadInputError, InputMissingError, UnknownFormatError, StorageError.

    Finds out the delimiter and the encoding of a CSV file, and whether it has a header.
    """
    _check_single(path)
    fmt = file_format(path)
    try:
        try:
            return _table(path, fmt)
        except MalformedInputError as exc:
            found = _ENCODING.search(exc.advice)
            if found is None:
                raise
            return _table(path, fmt._replace(dialect=fmt.dialect._replace(encoding=found[1])))
    except PsicliError as exc:
        # The job file is not there yet.
        here = "Check the path; a relative path starts at the current folder."
        exc.facts["advice"] = exc.advice.replace(_OF_A_JOB_FILE, here)
        raise


def read_column(table: Table, name: str) -> Column:
    """Return a column that somebody has named; raises InputMissingError or ColumnError if it cannot be a key."""
    if name in table.columns:
        return table.columns[name]
    try:
        (column,) = _sample(table.path, table.format, [name], SAMPLED_ROWS)
    except InputMissingError as exc:
        exc.facts["advice"] = exc.advice.replace("Check keys in the job file", "Check --key and --peer-key")
        raise
    return column


def _table(path: Path, fmt: FileFormat) -> Table:
    if fmt.kind in (Format.CSV, Format.TSV):
        fmt = _with_delimiter(path, fmt)
        if _is_data(_names(path, fmt)):
            fmt = fmt._replace(dialect=fmt.dialect._replace(header=False))
    found = _names(path, fmt)[:MOST_COLUMNS]
    rows = max(min(SAMPLED_ROWS, _SAMPLED_VALUES // max(len(found), 1)), 1000)
    columns = _possible(path, fmt, found, rows) if found else []
    return Table(path, fmt, {column.name: column for column in columns})


def _names(path: Path, fmt: FileFormat) -> list[str]:
    with open_input(path, fmt, [], name=str(path)) as source:
        source.header()
        return list(source.schema.names)


def _with_delimiter(path: Path, fmt: FileFormat) -> FileFormat:
    """Return the format with the delimiter that the header seems to have."""
    best, most = fmt, 1
    with suppress(BadInputError):
        most = len(_names(path, fmt))
    if most > 1:
        return fmt
    for delimiter in _DELIMITERS:
        other = fmt._replace(dialect=fmt.dialect._replace(delimiter=delimiter))
        with suppress(BadInputError):
            if (count := len(_names(path, other))) > most:
                best, most = other, count
    return best


def _is_data(found: list[str]) -> bool:
    """Return whether a first row holds values, and no names of columns."""
    return any(map(_DATA.fullmatch, found)) or (bool(found) and all(map(_NUMBER.fullmatch, found)))


def _possible(path: Path, fmt: FileFormat, found: list[str], rows: int) -> list[Column]:
    """Return those of some columns that can be keys; a reader refuses the whole key for one that cannot."""
    try:
        return _sample(path, fmt, found, rows)
    except ColumnError:
        half = len(found) // 2
        return [column for part in (found[:half], found[half:]) if half for column in _possible(path, fmt, part, rows)]


def _sample(path: Path, fmt: FileFormat, found: list[str], most: int) -> list[Column]:
    """Return columns with their first values."""
    batches, rows = [], 0
    with open_input(path, fmt, found, name=str(path)) as source:
        for texts in source.key_batches():
            signals.check()
            batches.append(texts)
            rows += len(texts[0])
            if rows >= most:
                break
    rows = min(rows, most)
    columns = [
        pa.concat_arrays([pa.array([], pa.large_string()), *parts])[:most] for parts in zip(*batches, strict=True)
    ]
    columns = columns or [pa.array([], pa.large_string())] * len(found)
    return [
        Column(name, texts.filter(pc.greater(pc.binary_length(texts), 0)), rows)
        for name, texts in zip(found, columns, strict=True)
    ]


def described(table: Table) -> str:
    """Return what was found out about how a file is written, for a message; empty if nothing is unusual."""
    dialect, parts = table.format.dialect, []
    if dialect.delimiter is not None:
        parts.append(f"its delimiter is {'a tab' if dialect.delimiter == chr(9) else repr(dialect.delimiter)}")
    if dialect.encoding != "utf-8":
        parts.append(f"its encoding is {dialect.encoding}")
    if not dialect.header:
        parts.append("it has no header, so its columns are called 1, 2 and so on")
    return f"{printable(table.path)}: {', '.join(parts)}" if parts else ""
