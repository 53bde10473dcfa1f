"""Reads input files: first the key texts of all rows, then the rows that matched.

Each of the two takes one pass over the input. No file is ever in memory as a whole: the memory limit is a block of the
input, or a batch of its rows.

    source                opens an input file and detects changes to it
    delimited, parquet    read a file: first the keys of all rows, then the matched rows
    kinds                 what psicli knows about the types of columns
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psicli.core.formats import FileFormat, Format
from psicli.tables.delimited import MAX_HEADER_BYTES, DelimitedInput, read_header
from psicli.tables.parquet import ParquetInput, read_schema
from psicli.tables.source import Fingerprint, SourceFile, Stream, fingerprint

__all__ = ["Fingerprint", "Input", "check_input", "fingerprint", "open_input"]

# An open input file. psicli reads it once for its keys and again for the rows that matched. Every method raises
# InputChangedError if the file has changed since it was opened.
Input = DelimitedInput | ParquetInput


def check_input(path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> Any:
    """Check that an input exists and has the key columns, and return its pa.Schema; reads only header or metadata.

    Messages show `name` instead of the path. Raises InputMissingError, BadInputError, StorageError.
    """
    with SourceFile(path, name or str(path)) as source:
        if fmt.kind == Format.PARQUET:
            return read_schema(source, keys)
        head = Stream(source, fmt.compression).read(MAX_HEADER_BYTES)
        schema, _ = read_header(head, fmt, source.name, keys, complete=len(head) < MAX_HEADER_BYTES)
        return schema


def open_input(path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> Input:
    """Open an input file; messages show `name` instead of the path. Raises InputMissingError."""
    if fmt.kind == Format.PARQUET:
        return ParquetInput(path, name or str(path), keys)
    return DelimitedInput(path, name or str(path), keys, fmt)
