"""Writes the matched rows of an input to an output file.

The rows are in memory as far as the budget of the sort allows; a batch or row group of the output is in memory too.

    columns               what a format can hold, and the types of columns between reading and writing
    metadata              what stays true of the metadata of a file
    sorting               sorts the matched rows, on disk if they do not fit in memory
    delimited, jsonl      write the sorted rows as text
    columnar              writes them with their types
    compressed            compresses text
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from psicli.core.errors import ColumnError, InterruptedBySignal, shown
from psicli.core.formats import COLUMNAR, FileFormat, Format
from psicli.outputs.columnar import write_arrow, write_parquet
from psicli.outputs.columns import UsedValues, check_types, output_schema, unwritable, wide_schema, widen
from psicli.outputs.delimited import column_that_needs_quotes, csv_rows, write_csv
from psicli.outputs.jsonl import write_jsonl
from psicli.outputs.metadata import with_metadata
from psicli.outputs.sorting import SHARES, RowSorter
from psicli.storage.spool import Spool
from psicli.tables import Input, Sample
from psicli.tables.delimited import DelimitedInput
from psicli.tables.parquet import row_group_rows

# More memory than one row ever takes [bytes].
_AMPLE = 1 << 40
# check_unquoted reads about so much at once [bytes].
_CHECKED_BYTES = 16 << 20

__all__ = ["check_output", "check_unquoted", "write_matched"]


def check_output(sample: Sample, fmt: FileFormat) -> None:
    """Check that rows like an input's first row can be written, by writing that row; raises ColumnError.

    What fails to be written must fail before the exchange: after it, the other party has already answered.
    """
    check_types(sample.schema, fmt, sample.name)
    if _is_written(sample, sample.schema, fmt):
        return
    # A key is part of every attempt, so a key that cannot be written must be found first.
    for field in sorted(sample.schema, key=lambda field: field.name not in sample.keys):
        fields = [sample.schema.field(key) for key in sample.keys if key != field.name]
        if not _is_written(sample, pa.schema([*fields, field]), fmt):
            raise unwritable(field, fmt, sample.name)
    raise unwritable(pa.field(", ".join(sample.schema.names), pa.struct(list(sample.schema))), fmt, sample.name)


def _is_written(sample: Sample, schema: Any, fmt: FileFormat) -> bool:
    """Return whether the row of a sample can be written if the file has only the columns of `schema`."""
    rows = 0 if sample.rows is None else 2
    rehearsed = _Rehearsed(sample, schema)
    try:
        write_matched(rehearsed, io.BytesIO(), fmt, pa.array([True] * rows, pa.bool_()), budget=_AMPLE, spool=None)
    except InterruptedBySignal:
        raise
    # The library decides which exceptions it raises for a type that it cannot write.
    except Exception:
        return False
    return True


class _Rehearsed:
    """An input whose first row is read twice, so that rows are also joined."""

    def __init__(self, sample: Sample, schema: Any) -> None:
        self.schema = schema
        self.keys = sample.keys
        self.name = sample.name
        self.utc_times = sample.utc_times
        self._rows = sample.rows

    def matched(self, mask: Any, budget: int) -> Iterator[Any]:
        """Yield the row of the sample once for each row of the mask."""
        return (self._rows.select(self.schema.names) for _ in mask)

    def ordered_values(self, column: str) -> Any:
        """Return the values of a dictionary in the sample."""
        if self._rows is None:
            return pa.array([], self.schema.field(column).type.value_type)
        return self._rows.column(column).chunk(0).dictionary

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()


def write_matched(
    source: Input | _Rehearsed, file: BinaryIO, fmt: FileFormat, mask: Any, *, budget: int, spool: Spool | None
) -> int:
    """Write the rows that `mask` (pa.BooleanArray, one value per row) selects, sorted by key; return how many [rows].

    The bytes depend only on the input and on which rows matched. About `budget` [bytes] of rows are in memory; the
    others are in `spool`, which may be None if all rows fit. Raises BadInputError, StorageError.
    """
    check_types(source.schema, fmt, source.name)
    schema, wide = source.schema, wide_schema(source.schema)
    keys = [schema.field(key) for key in source.keys]
    with closing(RowSorter(wide, keys, mask.true_count, budget, spool)) as sorter:
        fields = schema if fmt.kind in COLUMNAR else ()
        used = [UsedValues(field) for field in fields if pa.types.is_dictionary(field.type)]
        with source.watched():
            for rows in _prefetched(source.matched(mask, budget // SHARES)):
                table = widen(rows, wide)
                for values in used:
                    values.add(table)
                sorter.add(table)
            dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
        if fmt.kind not in COLUMNAR:
            tables = _prefetched(sorter.sorted(csv_rows(sorter.row_bytes)))
            if fmt.kind is Format.JSONL:
                line_column = None if isinstance(source, _Rehearsed) else source.line_column
                return write_jsonl(file, fmt, schema, line_column, tables)
            return write_csv(file, fmt, schema, tables)
        output = with_metadata(output_schema(schema, dictionaries), schema.metadata, dictionaries, mask.true_count)
        tables = _prefetched(sorter.sorted(row_group_rows(len(schema), sorter.row_bytes)))
        if fmt.kind is not Format.PARQUET:
            return write_arrow(file, fmt.kind, output, dictionaries, tables)
        return write_parquet(file, output, dictionaries, tables, utc_times=source.utc_times)


def check_unquoted(source: Input, fmt: FileFormat) -> None:
    """Check that an output without quotes can hold every value of an input whose keys were read; raises ColumnError.

    Reads the whole input once more, unless the format of the input shows that no value needs quotes.
    """
    if fmt.kind in COLUMNAR or fmt.kind is Format.JSONL or fmt.dialect.quotes:
        return
    if isinstance(source, DelimitedInput) and source.format.delimiter == fmt.delimiter:
        return
    wide, all_rows = wide_schema(source.schema), pa.array(np.ones(source.rows, bool))
    with source.watched():
        for rows in chain([wide.empty_table()], source.matched(all_rows, _CHECKED_BYTES)):
            column = column_that_needs_quotes(widen(rows, wide), source.schema, fmt)
            if column is not None:
                raise ColumnError(
                    place=source.name,
                    fault=f"the column {shown(column)} contains a delimiter or a line break, which the output cannot "
                    "hold without quotes",
                    advice="Write to a .parquet output, choose another csv.delimiter, or remove `csv.quotes: false`.",
                )


def _prefetched(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the tables of an iterator while another thread computes the next one; raises what the iterator raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as executor:
        following = executor.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = executor.submit(next, tables, None)
            yield table
