"""What a file format can hold, and the types of columns between reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from psicli.core.errors import ColumnError, shown
from psicli.core.formats import FileFormat, Format
from psicli.items import compute as pc
from psicli.items.kinds import bare, cast, has_list_view, kept, pairs, plain, relabelled, stored, value_type, with_types
from psicli.items.text import has_text

# UsedValues collects at least this many new values before it merges them with the others.
_GATHERED_VALUES = 1 << 16


def check_types(schema: Any, fmt: FileFormat, name: str) -> None:
    """Refuse columns of types that a format cannot hold; raises ColumnError."""
    holds = _HOLDS.get(fmt.kind, _has_csv)
    for field in schema:
        if not holds(field.type):
            raise unwritable(field, fmt, name)


def _has_csv(kind: Any) -> bool:
    return has_text(kind) or pa.types.is_floating(value_type(kind))


def _has_parquet(kind: Any) -> bool:
    kind = stored(kind)
    # pyarrow writes lists of fixed size 0 without an error, but cannot read them.
    is_empty = pa.types.is_fixed_size_list(kind) and kind.list_size == 0
    inside = range(kind.num_fields) if pa.types.is_nested(kind) else ()
    return not is_empty and all(_has_parquet(kind.field(index).type) for index in inside)


def _has_arrow(kind: Any) -> bool:
    # Selected rows of a list view still have the values of the other rows in their buffers.
    return not has_list_view(kind)


def _has_json(kind: Any) -> bool:
    from psicli.outputs.jsonl import has_json

    return has_json(kind)


_HOLDS: Mapping[Format, Callable[[Any], bool]] = {
    Format.PARQUET: _has_parquet,
    Format.ARROW: _has_arrow,
    Format.ARROW_STREAM: _has_arrow,
    Format.JSONL: _has_json,
}


def unwritable(field: Any, fmt: FileFormat, name: str) -> ColumnError:
    """Return the error for a column, given as pa.Field, that a format cannot hold."""
    other = "Cast the column" if fmt.kind is Format.PARQUET else "Write to a .parquet output, cast the column"
    return ColumnError(
        place=name,
        fault=f"the column {shown(field.name)} of type {shown(str(field.type))} cannot be written as {fmt.kind}",
        advice=f"{other}, or leave it out of the input.",
    )


def wide_schema(schema: Any) -> Any:
    """Return the pa.Schema of rows between reading and writing: plain types without 32-bit offsets."""
    return pa.schema([(field.name, _wide(plain(field.type))) for field in schema])


def _wide(kind: Any) -> Any:
    # pyarrow cannot join columns of more than 2 GiB with 32-bit offsets.
    return {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}.get(kind, kind)


def content_bytes(table: Any) -> int:
    """Return about how much memory the values of a pa.Table take [bytes].

    The number depends on the values alone, and not on chunks, slices or bytes under nulls.
    """
    return sum(_content_bytes(chunk) for column in table.columns for chunk in column.chunks)


def _content_bytes(values: Any) -> int:
    kind = values.type
    if pa.types.is_map(kind):
        # pyarrow flattens no maps.
        return _content_bytes(pairs(values))
    if pa.types.is_struct(kind):
        return sum(map(_content_bytes, values.flatten()))
    if pa.types.is_nested(kind):
        return 8 * len(values) + _content_bytes(values.flatten())
    if pa.types.is_null(kind):
        return 0
    try:
        width = -(-int(kind.bit_width) // 8)
    except ValueError:
        # The type has no fixed width.
        return 8 * len(values) + int(pc.sum(pc.binary_length(values)).as_py() or 0)
    return width * len(values)


def widen(table: Any, schema: Any) -> Any:
    """Return the rows of a pa.Table converted to their wide_schema."""
    columns = []
    for column, field in zip(table.columns, schema, strict=True):
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        columns.append(cast(column, field.type))
    return pa.table(columns, schema=schema)


def output_schema(schema: Any, dictionaries: Mapping[str, Any]) -> Any:
    """Return the pa.Schema of an output without its metadata, given the input's and the dictionaries of the output."""

    def of_output(field: Any) -> Any:
        kind = kept(field.type)
        # Every row group of an input can have a dictionary, and their values together need not fit its index type.
        if pa.types.is_dictionary(kind) and len(dictionaries[field.name]) >> _bits(kind.index_type):
            kind = pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
        return bare(field.with_type(kind))

    return pa.schema([of_output(field) for field in schema])


def _bits(index_type: Any) -> int:
    """Return for how many bits an index type has room."""
    width: int = index_type.bit_width
    return width - 1 if pa.types.is_signed_integer(index_type) else width


def narrow(table: Any, schema: Any, dictionaries: Mapping[str, Any]) -> Any:
    """Return wide rows, given as a pa.Table of single chunks, as a pa.RecordBatch with the schema of the output."""
    without_extensions = with_types(schema, stored)
    arrays = [
        _narrowed(column.chunk(0), field.type, dictionaries.get(field.name))
        for column, field in zip(table.columns, without_extensions, strict=True)
    ]
    return relabelled(pa.RecordBatch.from_arrays(arrays, schema=without_extensions), schema)


def _narrowed(values: Any, kind: Any, dictionary: Any) -> Any:
    if not pa.types.is_dictionary(kind):
        return cast(values, kind)
    indices = pc.cast(pc.index_in(values, value_set=dictionary), kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, pc.cast(dictionary, kind.value_type), ordered=kind.ordered)


class UsedValues:
    """The distinct values of the matched rows in one dictionary column, given as pa.Field."""

    def __init__(self, field: Any) -> None:
        self.name = field.name
        self._ordered = field.type.ordered
        self._gathered = [pa.array([], _wide(plain(field.type)))]
        self._count = 0

    def add(self, table: Any) -> None:
        """Add the values of more rows, given in their wide_schema."""
        fresh = pc.unique(pc.drop_null(table.column(self.name)))
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
            return pc.take(values, pc.sort_indices(values))
        reference = pc.cast(ordered_values(self.name), values.type)
        return pc.take(values, pc.sort_indices(pc.index_in(values, value_set=reference)))
