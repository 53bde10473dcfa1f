"""Whether the files of an input have the same columns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from psicli.core.errors import ColumnError, shown
from psicli.core.formats import COLUMNAR, FileFormat
from psicli.items import kinds
from psicli.items.text import canonical_text, has_text


class Columns:
    """The columns of all files of an input: those of the first file, under the same names.

    output: the format of the output, or None if this party writes none; then only the key columns count.
    """

    def __init__(self, schema: Any, name: str, output: FileFormat | None) -> None:
        self.schema = schema
        self._name = name
        self._output = output
        # The columns that have several types, and become text.
        self._mixed: set[str] = set()

    @property
    def unified(self) -> Any:
        """The columns as a pa.Schema, in which those with several types are text."""
        fields = [field.with_type(pa.string()) if field.name in self._mixed else field for field in self.schema]
        return pa.schema(fields, metadata=None if self._mixed else self.schema.metadata)

    def check(self, schema: Any, name: str, optional: bool = False, given: Collection[str] = ()) -> None:
        """Check the columns of another file; raises ColumnError.

        optional: whether the file may lack columns, as JSON Lines do. given: the columns that its path gives.
        """
        if self._output is None:
            return
        for field in self.schema:
            index = schema.get_field_index(field.name)
            if index >= 0:
                self._check_type(field, schema.field(index), name)
            elif not optional and field.name not in given:
                raise self._differs(name, f"there is no column {shown(field.name)}, which {self._name} has")
        for column in schema.names:
            if column not in self.schema.names:
                raise self._differs(name, f"there is a column {shown(column)}, which {self._name} does not have")

    def _check_type(self, one: Any, other: Any, name: str) -> None:
        index = self.schema.get_field_index(one.name)
        if pa.types.is_null(one.type):
            # A file in which a column has no value often does not know its type.
            self.schema = self.schema.set(index, other.with_nullable(True))
            return
        if _alike(one.type, other.type) or pa.types.is_null(other.type):
            if other.nullable and not one.nullable:
                self.schema = self.schema.set(index, one.with_nullable(True))
            return
        assert self._output is not None
        to_text = self._output.kind not in COLUMNAR
        if to_text and has_text(one.type) and has_text(other.type):
            self._mixed.add(one.name)
            return
        fault = f"the column {shown(one.name)} is of type {shown(str(other.type))}, but of type {shown(str(one.type))} "
        advice = "Write all files with the same types."
        if not to_text and (kinds.is_text(one.type) or kinds.is_text(other.type)):
            advice += " CSV, TSV and JSON Lines have only text; an output in one of these takes numbers and text alike."
        raise ColumnError(place=name, fault=f"{fault}in {self._name}", advice=advice)

    def _differs(self, name: str, fault: str) -> ColumnError:
        advice = "All files of an input need the same columns. Write them again, or leave files out with a pattern."
        return ColumnError(place=name, fault=fault, advice=advice)

    def add(self, schema: Any) -> None:
        """Add the columns of a file of JSON Lines, whose objects need not have the same names."""
        names = self.schema.names
        self.schema = pa.schema([*self.schema, *(field for field in schema if field.name not in names)])

    def take_over(self, schema: Any) -> None:
        """Take over the types of timestamps from the file whose columns these are, now that their unit is known."""
        for index, field in enumerate(self.schema):
            kind = schema.field(field.name).type if field.name in schema.names else field.type
            if kind != field.type and field.name not in self._mixed:
                self.schema = self.schema.set(index, field.with_type(kind))

    def aligned(self, rows: Any, schema: Any) -> Any:
        """Return rows of a file, a pa.Table, with the columns of all files in their order. schema: of the file."""
        columns = []
        for field in self.schema:
            column = rows.column(field.name) if field.name in rows.column_names else None
            if column is None or (pa.types.is_null(column.type) and not pa.types.is_null(field.type)):
                kind = field.type if pa.types.is_dictionary(field.type) else kinds.plain(field.type)
                columns.append(pa.nulls(rows.num_rows, pa.string() if field.name in self._mixed else kind))
            elif field.name in self._mixed:
                columns.append(canonical_text(column, schema.field(field.name).type))
            else:
                columns.append(column)
        return pa.table(columns, names=self.schema.names)


def _alike(one: Any, other: Any) -> bool:
    """Return whether values of two types look the same in memory."""
    if one == other:
        return True
    categories = [each for each in (one, other) if pa.types.is_dictionary(each)]
    if len(categories) == 1 or (categories and one.ordered != other.ordered):
        return False
    return bool(_plain(one) == _plain(other)) and kinds.is_extension(one) == kinds.is_extension(other)


def _plain(kind: Any) -> Any:
    plain = kinds.plain(kind)
    return pa.string() if plain == pa.large_string() else plain
