"""What a file format can hold, and the types of columns between reading and writing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from psicli.core.errors import ColumnError, shown
from psicli.core.formats import FileFormat, Format
from psicli.items.text import has_text
from psicli.tables.kinds import VIEWS

# UsedValues collects at least this many new values before it merges them with the others.
_GATHERED_VALUES = 1 << 16

_TEXT = pa.large_string()
_WIDE = {pa.string(): _TEXT, pa.binary(): pa.large_binary(), **VIEWS}


def check_writable(schema: Any, fmt: FileFormat, name: str) -> None:
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
