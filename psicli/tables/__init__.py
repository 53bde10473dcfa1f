"""Inputs -> canonical key texts, and their matched rows -> outputs, each in one pass over the file.

Nothing here holds a whole file: what is in memory is bounded by a block of the input, by the budget of the sort and
by a batch or row group of the output.

    delimited, parquet    read a file: the keys of all rows, then the matched rows
    text                  what a key's value is as text, the same on both sides
    sorting               sorts the rows, on disk if need be
    output                writes them
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.core.formats import FileFormat, Format
from psicli.storage.spool import Spool
from psicli.tables import output as out
from psicli.tables.delimited import MAX_HEADER_BYTES, DelimitedInput, read_header
from psicli.tables.parquet import ParquetInput, read_schema
from psicli.tables.sorting import SHARES, RowSorter
from psicli.tables.source import Fingerprint, SourceFile, Stream, fingerprint

__all__ = ["Fingerprint", "Input", "check_input", "fingerprint", "open_input", "write_matched"]

# An input file, open and watched: read once for its keys, and once more for the rows that matched. All of it raises
# InputChangedError.
Input = DelimitedInput | ParquetInput


def check_input(
    path: Path, fmt: FileFormat, keys: Sequence[str], *, output: FileFormat | None = None, name: str | None = None
) -> None:
    """Check cheaply, by header or metadata, that an input exists, holds the key columns and can become `output`.

    `name` stands for the path in messages. Raises InputMissingError, BadInputError, StorageError.
    """
    with SourceFile(path, name or str(path)) as source:
        if fmt.kind == Format.PARQUET:
            schema = read_schema(source, keys)
        else:
            head = Stream(source, zipped=fmt.gzip).read(MAX_HEADER_BYTES)
            schema, _ = read_header(head, fmt, source.name, keys, complete=len(head) < MAX_HEADER_BYTES)
        if output is not None:
            out.check_writable_types(schema, output, source.name)


def open_input(path: Path, fmt: FileFormat, keys: Sequence[str], *, name: str | None = None) -> Input:
    """Open an input file; `name` stands for the path in messages. Raises InputMissingError."""
    if fmt.kind == Format.PARQUET:
        return ParquetInput(path, name or str(path), keys)
    return DelimitedInput(path, name or str(path), keys, fmt)


def write_matched(source: Input, file: BinaryIO, fmt: FileFormat, mask: Any, *, budget: int, spool: Spool) -> int:
    """Write the rows that `mask` (pa.BooleanArray, one a row) marks, sorted by key; returns how many [rows].

    The bytes depend on the input and the set of matched rows alone. About `budget` [bytes] of rows are in memory; the
    others wait in `spool`. Raises BadInputError, StorageError.
    """
    out.check_writable_types(source.schema, fmt, source.name)
    names, wide = source.schema.names, out.wide_schema(source.schema)
    dictionaries: dict[str, Any] = {}
    with closing(RowSorter(wide, source.keys, mask.true_count, budget, spool)) as sorter:
        fields = source.schema if fmt.kind == Format.PARQUET else ()
        used = [out.UsedValues(field) for field in fields if pa.types.is_dictionary(field.type)]
        with source.watched():
            for rows in _one_ahead(source.matched(mask, budget // SHARES)):
                table = out.widen(rows, wide)
                for values in used:
                    values.add(table)
                sorter.add(table)
            # CSV has none.
            if isinstance(source, ParquetInput):
                dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
        if fmt.kind == Format.PARQUET:
            tables = _one_ahead(sorter.sorted(out.row_group_rows(len(names))))
            return out.write_parquet(file, source.schema, dictionaries, tables)
        return out.write_csv(file, fmt, names, _one_ahead(sorter.sorted(out.csv_rows(sorter.row_bytes))))


def _one_ahead(tables: Iterator[Any]) -> Iterator[Any]:
    """Give what an iterator gives; another thread makes the next meanwhile. Raises what making one raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as maker:
        coming = maker.submit(next, tables, None)
        while (table := coming.result()) is not None:
            coming = maker.submit(next, tables, None)
            yield table
