"""Writes sorted rows as CSV, TSV or Parquet. The bytes depend only on the rows, not on how tables divide them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psicli.core.errors import ColumnError, shown
from psicli.core.formats import FileFormat, Format
from psicli.items.encoding import packed
from psicli.tables.delimited import delimiter
from psicli.tables.text import has_text, joined, text_of

# A row group has 122,880 rows, as in DuckDB and others: 60 of their vectors of 2,048. A row group is in memory while it
# is written, so tables with many columns get smaller ones. The size of values in memory has no influence, because the
# bytes must depend only on the rows.
_ROW_GROUP_ROWS = 122_880
_VECTOR_ROWS = 2048
_ROW_GROUP_VALUES = 4_000_000
# At most this many rows, and about this many bytes, are converted to CSV lines in one step.
_CSV_BATCH_ROWS = 16_384
_CSV_BATCH_BYTES = 4 << 20
# UsedValues collects at least this many new values before it merges them with the others.
_GATHERED_VALUES = 1 << 16

_TEXT = pa.large_string()
# The types of values between reading and writing: pyarrow cannot select rows of views, and 32-bit offsets can overflow.
VIEWS = {pa.string_view(): _TEXT, pa.binary_view(): pa.large_binary()}
_WIDE = {pa.string(): _TEXT, pa.binary(): pa.large_binary(), **VIEWS}


# Before writing ------------------------------------------------------------------------------------------------


def check_writable_types(schema: Any, fmt: FileFormat, name: str) -> None:
    """Refuse columns that a format cannot hold; raises ColumnError."""
    suits = _suits_parquet if fmt.kind == Format.PARQUET else _suits_csv
    for field in schema:
        if not suits(field.type):
            raise ColumnError(
                place=name,
                fault=f"the column {shown(field.name)} of type {shown(str(field.type))} "
                f"cannot be written as {fmt.kind}",
                advice="Write to a .parquet output, cast the column, or leave it out of the input.",
            )


def _suits_csv(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        return _suits_csv(kind.value_type)
    return has_text(kind) or pa.types.is_floating(kind) or pa.types.is_time(kind)


def _suits_parquet(kind: Any) -> bool:
    """Return whether a type has neither nested dictionaries nor nested views."""
    children = [kind.field(index).type for index in range(kind.num_fields)]
    # A nested dictionary reveals values of rows that did not match, and pyarrow cannot cast nested views.
    return all(not pa.types.is_dictionary(child) and child not in VIEWS and _suits_parquet(child) for child in children)


def wide_schema(schema: Any) -> Any:
    """Return the pa.Schema of rows between reading and writing: without dictionaries, views and 32-bit offsets."""

    def wide(kind: Any) -> Any:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return _WIDE.get(kind, kind)

    return pa.schema([pa.field(field.name, wide(field.type)) for field in schema])


def widen(table: Any, schema: Any) -> Any:
    """Return the rows of a pa.Table converted to their wide_schema."""
    columns = []
    for column, field in zip(table.columns, schema, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


class UsedValues:
    """The distinct values of the matched rows in one dictionary column, given as pa.Field."""

    def __init__(self, field: Any) -> None:
        self.name = field.name
        self._ordered = field.type.ordered
        self._gathered = [pa.array([], _WIDE.get(field.type.value_type, field.type.value_type))]
        self._count = 0

    def add(self, table: Any) -> None:
        """Add the values of more rows, given in their wide_schema."""
        fresh = pc.unique(table.column(self.name).drop_null())
        self._gathered.append(fresh)
        self._count += len(fresh)
        if self._count > max(_GATHERED_VALUES, 2 * len(self._gathered[0])):
            self._merge()

    def _merge(self) -> Any:
        values = pc.unique(pa.concat_arrays(self._gathered))
        self._gathered, self._count = [values], 0
        return values

    def dictionary(self, ordered_values: Callable[[str], Any]) -> Any:
        """Return the values as a dictionary, sorted, so that their order reveals nothing about the file.

        An ordered dictionary keeps its order, because the order has a meaning. ordered_values returns that order for a
        column name.
        """
        values = self._merge()
        if not self._ordered:
            return values.take(pc.sort_indices(values))
        reference = ordered_values(self.name).cast(values.type)
        return values.take(pc.sort_indices(pc.index_in(values, value_set=reference)))


# CSV -----------------------------------------------------------------------------------------------------------


def csv_rows(row_bytes: int) -> int:
    """Return how many rows to write in one step [rows], given the size of a row [bytes]."""
    return min(max(_CSV_BATCH_BYTES // max(row_bytes, 1), 1), _CSV_BATCH_ROWS)


def write_csv(file: BinaryIO, fmt: FileFormat, names: Sequence[str], tables: Iterable[Any]) -> int:
    """Write wide rows as CSV or TSV, from tables whose columns are single chunks; return how many [rows]."""
    separator, rows = delimiter(fmt), 0
    # The gzip header has no name and no time, so that equal rows give equal bytes.
    zipped = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) if fmt.gzip else nullcontext(file)
    with zipped as lines:
        lines.write(_csv_lines([pa.array([name], _TEXT) for name in names], separator))
        for table in tables:
            lines.write(_csv_lines([_csv_text(column.chunk(0)) for column in table.columns], separator))
            rows += table.num_rows
    return rows


def _csv_text(array: Any) -> Any:
    if pa.types.is_floating(array.type) or pa.types.is_time(array.type):
        return array.cast(_TEXT)
    return text_of(array)


def _csv_lines(columns: Sequence[Any], separator: str) -> Any:
    """Join text columns into CSV lines that end with LF; a null becomes an empty field."""
    quoted = [_quoted(column, separator) for column in columns]
    lines = pc.binary_join_element_wise(
        *quoted, pa.scalar(separator, _TEXT), null_handling="replace", null_replacement=""
    )
    _, data = packed(joined(lines, "\n"))
    return data.tobytes()


def _quoted(text: Any, separator: str) -> Any:
    """Quote the values that contain the delimiter, a quote or a line break."""
    special = f'"\r\n{separator}'
    _, data = packed(text)
    if not np.isin(data, np.frombuffer(special.encode(), np.uint8)).any():
        return text
    doubled = pc.replace_substring(text, pattern='"', replacement='""')
    wrapped = joined('"', doubled, '"')
    return pc.if_else(pc.match_substring_regex(text, pattern=f"[{special}]"), wrapped, text)


# Parquet -------------------------------------------------------------------------------------------------------


def row_group_rows(columns: int) -> int:
    """Return the number of rows in a row group, given the number of columns."""
    vectors = _ROW_GROUP_VALUES // (max(columns, 1) * _VECTOR_ROWS)
    return min(max(vectors, 1) * _VECTOR_ROWS, _ROW_GROUP_ROWS)


def write_parquet(file: BinaryIO, schema: Any, dictionaries: dict[str, Any], tables: Iterable[Any]) -> int:
    """Write wide rows with the types of `schema`; return how many [rows].

    The tables have row_group_rows rows each, in columns that are single chunks.
    """
    # Remove the schema's metadata, because pandas stores the number of input rows there.
    schema = schema.remove_metadata()
    rows = 0
    with pq.ParquetWriter(file, schema, use_dictionary=_repeating(schema)) as writer:
        for table in tables:
            arrays = [
                _narrowed(column.chunk(0), field.type, dictionaries.get(field.name))
                for column, field in zip(table.columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=table.num_rows)
            rows += table.num_rows
    return rows


def _repeating(schema: Any) -> list[str]:
    """Return the paths of the columns to write with a dictionary: all except those of floating-point numbers.

    Floating-point numbers hardly repeat. Dictionaries for them took a third of the writing time and made files larger.
    """
    nothing = io.BytesIO()
    pq.write_table(schema.empty_table(), nothing)
    leaves = pq.ParquetFile(nothing).schema
    columns = (leaves.column(index) for index in range(len(leaves)))
    return [column.path for column in columns if column.physical_type not in ("FLOAT", "DOUBLE")]


def _narrowed(values: Any, kind: Any, dictionary: Any) -> Any:
    """Convert wide values back to the type of their column."""
    if not pa.types.is_dictionary(kind):
        return values.cast(kind)
    indices = pc.index_in(values, value_set=dictionary).cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, dictionary.cast(kind.value_type), ordered=kind.ordered)
