"""Writes the matched rows of an input to an output file.

The rows are in memory as far as the budget of the sort allows; a batch or row group of the output is in memory too.

    columns               what a format can hold, and the types of columns between reading and writing
    sorting               sorts the matched rows, on disk if they do not fit in memory
    delimited, columnar   write the sorted rows
    compressed            compresses text
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.core.formats import FileFormat, Format
from psicli.outputs.columnar import write_parquet
from psicli.outputs.columns import UsedValues, check_writable, wide_schema, widen
from psicli.outputs.delimited import csv_rows, write_csv
from psicli.outputs.sorting import SHARES, RowSorter
from psicli.storage.spool import Spool
from psicli.tables import Input
from psicli.tables.parquet import ParquetInput, row_group_rows

__all__ = ["check_writable", "write_matched"]


def write_matched(source: Input, file: BinaryIO, fmt: FileFormat, mask: Any, *, budget: int, spool: Spool) -> int:
    """Write the rows that `mask` (pa.BooleanArray, one value per row) selects, sorted by key; return how many [rows].

    The bytes depend only on the input and on which rows matched. About `budget` [bytes] of rows are in memory; the
    others are in `spool`. Raises BadInputError, StorageError.
    """
    check_writable(source.schema, fmt, source.name)
    names, wide = source.schema.names, wide_schema(source.schema)
    dictionaries: dict[str, Any] = {}
    with closing(RowSorter(wide, source.keys, mask.true_count, budget, spool)) as sorter:
        fields = source.schema if fmt.kind == Format.PARQUET else ()
        used = [UsedValues(field) for field in fields if pa.types.is_dictionary(field.type)]
        with source.watched():
            for rows in _prefetched(source.matched(mask, budget // SHARES)):
                table = widen(rows, wide)
                for values in used:
                    values.add(table)
                sorter.add(table)
            # Only Parquet has dictionaries.
            if isinstance(source, ParquetInput):
                dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
        if fmt.kind == Format.PARQUET:
            tables = _prefetched(sorter.sorted(row_group_rows(len(names))))
            return write_parquet(file, source.schema, dictionaries, tables)
        return write_csv(file, fmt, names, _prefetched(sorter.sorted(csv_rows(sorter.row_bytes))))


def _prefetched(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the tables of an iterator while another thread computes the next one; raises what the iterator raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as executor:
        following = executor.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = executor.submit(next, tables, None)
            yield table
