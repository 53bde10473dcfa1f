"""The formats of inputs and outputs, and the suffixes that name them."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from psicli.core.errors import UnknownFormatError, shown


class Format(StrEnum):
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


class FileFormat(NamedTuple):
    """The format of an input or output file; only CSV and TSV can be gzipped."""

    kind: Format
    gzip: bool = False


_FORMATS = {
    ".csv": FileFormat(Format.CSV),
    ".tsv": FileFormat(Format.TSV),
    ".csv.gz": FileFormat(Format.CSV, gzip=True),
    ".tsv.gz": FileFormat(Format.TSV, gzip=True),
    ".parquet": FileFormat(Format.PARQUET),
}
SUFFIXES = ", ".join(_FORMATS)


def file_format(path: Path | str) -> FileFormat:
    """Return the format that a path's suffix names; `-` is CSV. Raises UnknownFormatError."""
    text = os.fspath(path)
    for suffix, found in _FORMATS.items():
        if text.endswith(suffix):
            return found
    if text == "-":
        return FileFormat(Format.CSV)
    raise UnknownFormatError(path=shown(text), suffixes=SUFFIXES)
