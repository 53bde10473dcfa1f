"""Writes rows of an input to an output file: those that matched, the others, or all.

The rows are in memory as far as the budget of the sort allows; a batch or row group of the output is in memory too.

    columns               what a format can hold, and the types of columns between reading and writing
    metadata              what stays true of the metadata of a file
    rows                  which rows and columns an output holds
    sorting               sorts the rows, on disk if they do not fit in memory
    delimited, jsonl      write the rows as text
    columnar              writes them with their types
    compressed            compresses text
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.config import OutputSettings
from psicli.core.errors import ColumnError, InterruptedBySignal, shown
from psicli.core.formats import COLUMNAR, FileFormat, Format
from psicli.items.forms.columns import KeyColumns
from psicli.outputs.columns import UsedValues, check_types, output_schema, unwritable
from psicli.outputs.delimited import column_that_needs_quotes, csv_rows, write_csv
from psicli.outputs.rows.content import Content
from psicli.outputs.rows.filed import regrouped
from psicli.outputs.sorting import SHARES, RowSorter
from psicli.storage.spool import Spool
from psicli.tables import Input, Sample, Selection

# More memory than one row ever takes [bytes].
_AMPLE = 1 << 40
# check_unquoted reads about so much at once [bytes].
_CHECKED_BYTES = 16 << 20
# Rows that are not sorted are written in groups of about these sizes at most [bytes].
_GROUP_BYTES, _TEXT_BYTES = 128 << 20, 4 << 20

__all__ = ["check_output", "check_unquoted", "selection", "write_matched"]

_DEFAULT = OutputSettings()


def selection(settings: OutputSettings) -> Selection:
    """Return the columns of an input that an output with these settings needs."""
    return Selection(settings.columns, settings.flag)


def check_output(sample: Sample, fmt: FileFormat, settings: OutputSettings = _DEFAULT) -> None:
    """Check that rows like an input's first row can be written, by writing that row; raises ColumnError.

    What fails to be written must fail before the exchange: after it, the other party has already answered.
    """
    schema = sample.schema
    # Where lines are copied, the column with the lines has what is selected.
    if settings.columns is not None and {*settings.columns} <= {*schema.names}:
        schema = pa.schema([schema.field(name) for name in settings.columns])
    check_types(schema, fmt, sample.name)
    if _is_written(sample, schema, fmt):
        return
    # A key is part of every attempt, so a key that cannot be written must be found first.
    for field in sorted(schema, key=lambda field: field.name not in sample.keys):
        fields = [schema.field(key) for key in sample.keys if key != field.name and key in schema.names]
        if not _is_written(sample, pa.schema([*fields, field]), fmt):
            raise unwritable(field, fmt, sample.name)
    raise unwritable(pa.field(", ".join(schema.names), pa.struct(list(schema))), fmt, sample.name)


def _is_written(sample: Sample, schema: Any, fmt: FileFormat) -> bool:
    """Return whether the row of a sample can be written if the output has only the columns of `schema`."""
    rows = 0 if sample.rows is None else 2
    rehearsed = _Rehearsed(sample, [*schema.names, *(key for key in sample.keys if key not in schema.names)])
    # Columns of an input may have names that a job file could not give.
    settings = _DEFAULT.model_copy(update={"columns": tuple(schema.names)})
    mask = pa.array([True] * rows, pa.bool_())
    try:
        write_matched(rehearsed, io.BytesIO(), fmt, mask, settings, budget=_AMPLE, spool=None)
    except InterruptedBySignal:
        raise
    # The library decides which exceptions it raises for a type that it cannot write.
    except Exception:
        return False
    return True


class _Rehearsed:
    """An input whose first row is read twice, so that rows are also joined."""

    def __init__(self, sample: Sample, names: list[str]) -> None:
        self.schema = pa.schema([sample.schema.field(name) for name in names], sample.schema.metadata)
        self.columns = KeyColumns(sample.keys)
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
    source: Input | _Rehearsed,
    file: BinaryIO,
    fmt: FileFormat,
    mask: Any,
    settings: OutputSettings = _DEFAULT,
    *,
    budget: int,
    spool: Spool | None,
) -> int:
    """Write the rows and columns that `settings` choose; return how many [rows].

    mask: which rows matched, as a pa.BooleanArray with one value per row. The bytes depend only on the input, the
    settings and the mask. About `budget` [bytes] of rows are in memory; the others are in `spool`, which may be None if
    all rows fit. Raises BadInputError, StorageError.
    """
    line_column = None if isinstance(source, _Rehearsed) else source.line_column
    content = Content(source, settings, mask, line_column)
    check_types(content.schema, fmt, source.name)
    fields = content.schema if fmt.kind in COLUMNAR else ()
    used = [UsedValues(field) for field in fields if pa.types.is_dictionary(field.type)]
    writer = _Writer(source, file, fmt, content, line_column)
    if settings.order == "input":
        with source.watched():
            # A dictionary is written before the rows, so all of its values must be known.
            for table in content.tables(budget // SHARES) if used else ():
                for values in used:
                    values.add(table)
            dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
            return writer.write(_prefetched(writer.divided(content.tables(budget // SHARES))), dictionaries)
    with closing(RowSorter(content.wide, content.sort_keys, content.rows, budget, spool)) as sorter:
        with source.watched():
            for table in _prefetched(content.tables(budget // SHARES)):
                for values in used:
                    values.add(table)
                sorter.add(table)
            dictionaries = {values.name: values.dictionary(source.ordered_values) for values in used}
        tables = sorter.sorted(writer.rows_at_once(sorter.row_bytes))
        return writer.write(_prefetched(tables), dictionaries)


def check_unquoted(source: Input, fmt: FileFormat, settings: OutputSettings = _DEFAULT) -> None:
    """Check that an output without quotes can hold every value of an input whose keys were read; raises ColumnError.

    Reads the whole input once more, unless the format of the input shows that no value needs quotes.
    """
    if fmt.kind in COLUMNAR or fmt.kind is Format.JSONL or fmt.dialect.quotes:
        return
    needs = None
    if settings.flag is not None:
        flag = pa.schema([(settings.flag, pa.bool_())])
        needs = column_that_needs_quotes(flag.empty_table(), flag, fmt)
    from psicli.tables.delimited import DelimitedInput

    is_same = isinstance(source, DelimitedInput) and source.format.delimiter == fmt.delimiter
    if needs is None and not is_same:
        needs = _first_that_needs_quotes(source, fmt, settings)
    if needs is not None:
        raise ColumnError(
            place=source.name,
            fault=f"the column {shown(needs)} contains a delimiter or a line break, which the output cannot hold "
            "without quotes",
            advice="Write to a .parquet output, choose another csv.delimiter, or remove `csv.quotes: false`.",
        )


def _first_that_needs_quotes(source: Input, fmt: FileFormat, settings: OutputSettings) -> str | None:
    every_row = settings.model_copy(update={"rows": "matched", "flag": None, "order": "input"})
    content = Content(source, every_row, pa.repeat(pa.scalar(True, pa.bool_()), source.rows), None)
    with source.watched():
        tables = chain([content.wide.empty_table()], content.tables(_CHECKED_BYTES))
        columns = (column_that_needs_quotes(table, content.schema, fmt) for table in tables)
        return next((column for column in columns if column is not None), None)


class _Writer:
    """Writes the tables of a content in one format."""

    def __init__(
        self, source: Input | _Rehearsed, file: BinaryIO, fmt: FileFormat, content: Content, line_column: str | None
    ) -> None:
        self._source, self._file, self._format, self._content = source, file, fmt, content
        self._line_column = line_column
        self._is_columnar = fmt.kind in COLUMNAR

    def rows_at_once(self, row_bytes: int) -> int:
        """Return how many rows to write in one step [rows], given the average content of a row [bytes]."""
        if not self._is_columnar:
            return csv_rows(row_bytes)
        from psicli.tables.parquet import row_group_rows

        return row_group_rows(len(self._content.schema), row_bytes)

    def divided(self, tables: Iterator[Any]) -> Iterator[Any]:
        """Divide rows that are not sorted into steps of writing."""
        size = _GROUP_BYTES if self._is_columnar else _TEXT_BYTES
        return regrouped(tables, self._content.wide, self.rows_at_once(0), size)

    def write(self, tables: Iterator[Any], dictionaries: Mapping[str, Any]) -> int:
        """Write tables whose columns are single chunks; return how many rows.

        What writes a format is imported late, because a run has outputs in one format, or few.
        """
        fmt, schema = self._format, self._content.schema
        tables = (table.select(schema.names) for table in tables)
        if fmt.kind is Format.JSONL:
            from psicli.outputs.jsonl import write_jsonl

            return write_jsonl(self._file, fmt, schema, self._line_column, tables)
        if not self._is_columnar:
            return write_csv(self._file, fmt, schema, tables)
        from psicli.outputs.columnar import write_arrow, write_parquet
        from psicli.outputs.metadata import with_metadata

        output = output_schema(schema, dictionaries)
        output = with_metadata(output, schema.metadata, dictionaries, self._content.rows, self._content.flag)
        if fmt.kind is not Format.PARQUET:
            return write_arrow(self._file, fmt.kind, output, dictionaries, tables)
        return write_parquet(self._file, output, dictionaries, tables, utc_times=self._source.utc_times)


def _prefetched(tables: Iterator[Any]) -> Iterator[Any]:
    """Yield the tables of an iterator while another thread computes the next one; raises what the iterator raises."""
    with ThreadPoolExecutor(1, "psicli-ahead") as executor:
        following = executor.submit(next, tables, None)
        while (table := following.result()) is not None:
            following = executor.submit(next, tables, None)
            yield table
