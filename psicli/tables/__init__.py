"""Reads the canonical key texts of input files, and writes their matched rows to output files.

Each of the two takes one pass over the input. No file is ever in memory as a whole: a block of the input, the budget
of the sort, and a batch or row group of the output limit the memory.

    source                opens an input file and detects changes to it
    delimited, parquet    read a file: first the keys of all rows, then the matched rows
    text                  converts key values to text, in the same way for both parties
    sorting               sorts the matched rows, on disk if they do not fit in memory
    output                writes the sorted rows
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

# An open input file. psicli reads it once for its keys and again for the rows that matched. Every method raises
# InputChangedError if the file has changed since it was opened.
Input = DelimitedInput | ParquetInput


def check_input(
    path: Path, fmt: FileFormat, keys: Sequence[str], *, output: FileFormat | None = None, name: str | None = None
) -> None:
    """Check that an input exists, has the key columns, and can be written as `output`; reads only header or metadata.

    Messages show `name` instead of the path. Raises InputMissingError, BadInputError, StorageError.
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
    """Open an input file; messages show `name` instead of the path. Raises InputMissingError."""
    if fmt.kind == Format.PARQUET:
        return ParquetInput(path, name or str(path), keys)
    return DelimitedInput(path, name or str(path), keys, fmt)


def write_matched(source: Input, file: BinaryIO, fmt: FileFormat, mask: Any, *, budget: int, spool: Spool) -> int:
    """Write the rows that `mask` (pa.BooleanArray, one value per row) selects, sorted by key; return how many [rows].

    The bytes depend only on the input and on which rows matched. About `budget` [bytes] of rows are in memory; the
    others are in `spool`. Raises BadInputError, StorageError.
    """
    out.check_writable_types(source.schema, fmt, source.name)
    names, wide = source.schema.names, out.wide_schema(source.schema)
    dictionaries: dict[str, Any] = {}
    with closing(RowSorter(wide, source.keys, mask.true_count, budget, spool)) as sorter:
        fields = source.schema if fmt.kind == Format.PARQUET else ()
        used = [out.UsedValues(field) for field in fields if pa.types.is_dictionary(field.type)]
        with source.watched():
            for rows in _prefetched(source.matched(mask, budget // SHARES)):
                table = out.widen(rows, wide)
                for values in used:
                    values.add(table)
                sorter.add(table)
            # Only Parquet has dictionaries.
            if isinstance(source, ParquetInput):
                dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
        if fmt.kind == Format.PARQUET:
            tables = _prefetched(sorter.sorted(out.row_group_rows(len(names))))
            return out.write_parquet(file, source.schema, dictionaries, tables)
        return out.write_csv(file, fmt, names, _prefetched(sorter.sorted(out.csv_rows(sorter.row_bytes))))


def _prefetched(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the tables of an iterator while another thread computes the next one; raises what the iterator raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as executor:
        following = executor.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = executor.submit(next, tables, None)
            yield table
