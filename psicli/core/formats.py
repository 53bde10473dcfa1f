"""The formats of inputs and outputs, and the suffixes that name them."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import NamedTuple

from psicli.core.errors import UnknownFormatError, shown
from psicli.core.places import Place, Url


class Format(StrEnum):
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    ARROW = "arrow"
    ARROW_STREAM = "arrow stream"


# Formats that keep the types of columns.
COLUMNAR = frozenset({Format.PARQUET, Format.ARROW, Format.ARROW_STREAM})


class Compression(StrEnum):
    """How the bytes of a whole file are compressed; compression inside a format, such as Parquet's, does not count."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class Dialect(NamedTuple):
    """How a CSV or TSV file is written. delimiter: None is a comma in CSV and a tab in TSV."""

    delimiter: str | None = None
    # The encoding of inputs; outputs are always UTF-8.
    encoding: str = "utf-8"
    header: bool = True
    null_values: tuple[str, ...] = ()
    # Whether a quote encloses a value; if not, it is a character like any other.
    quotes: bool = True


# A CSV or TSV file as the job file's defaults describe it.
PLAIN = Dialect()


class FileFormat(NamedTuple):
    """The format of an input or output file. Only text is compressed; `dialect` concerns CSV and TSV."""

    kind: Format
    compression: Compression = Compression.NONE
    dialect: Dialect = PLAIN

    @property
    def is_packed(self) -> bool:
        """Whether files are smaller than their content."""
        return self.compression is not Compression.NONE or self.kind in COLUMNAR

    @property
    def delimiter(self) -> str:
        return self.dialect.delimiter or ("\t" if self.kind == Format.TSV else ",")


_COMPRESSIONS = {"": Compression.NONE, ".gz": Compression.GZIP, ".zst": Compression.ZSTD}
_TEXT = {"csv": Format.CSV, "tsv": Format.TSV, "jsonl": Format.JSONL, "ndjson": Format.JSONL}
_TYPED = {
    ".parquet": FileFormat(Format.PARQUET),
    ".parq": FileFormat(Format.PARQUET),
    ".pq": FileFormat(Format.PARQUET),
    ".arrow": FileFormat(Format.ARROW),
    ".feather": FileFormat(Format.ARROW),
    ".arrows": FileFormat(Format.ARROW_STREAM),
}
_FORMATS = _TYPED | {
    f".{name}{suffix}": FileFormat(kind, compression)
    for suffix, compression in _COMPRESSIONS.items()
    for name, kind in _TEXT.items()
}
SUFFIXES = f"{', '.join(f'.{name}' for name in _TEXT)} (also with .gz or .zst), {', '.join(_TYPED)}"


def is_suffix(text: str) -> bool:
    """Return whether a text names a format as the end of a path."""
    return text in _FORMATS


def is_format(name: str) -> bool:
    """Return whether a name ends in the suffix of a format."""
    return any(name.lower().endswith(suffix) for suffix in _FORMATS)


def without_suffix(name: str) -> str:
    """Return a file's name without the suffix of its format; raises UnknownFormatError."""
    for suffix in _FORMATS:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    raise UnknownFormatError(path=shown(name), suffixes=SUFFIXES)


def file_format(path: Place | str, dialect: Dialect = PLAIN) -> FileFormat:
    """Return the format that a path's suffix names; `-` is CSV. Raises UnknownFormatError."""
    text = path.name if isinstance(path, Url) else os.fspath(path)
    for suffix, found in _FORMATS.items():
        if text.lower().endswith(suffix):
            return found._replace(dialect=dialect)
    if text == "-":
        return FileFormat(Format.CSV, dialect=dialect)
    raise UnknownFormatError(path=shown(text), suffixes=SUFFIXES)
