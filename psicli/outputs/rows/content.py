"""Reads the rows and columns that the settings of an output choose, and adds the flag."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa

from psicli.config import OutputSettings
from psicli.items import compute as pc
from psicli.items.forms.columns import KeyColumns
from psicli.items.text import canonical_text
from psicli.outputs.columns import wide_schema, widen


class Readable(Protocol):
    """What an output needs of an input whose keys have been read."""

    @property
    def schema(self) -> Any: ...
    @property
    def columns(self) -> KeyColumns: ...
    def matched(self, mask: Any, budget: int, /) -> Iterator[Any]: ...


class Content:
    """The rows and columns of an output, as tables in plain types.

    mask: the rows that matched, as a pa.BooleanArray. line_column: the one column of an output that copies lines.
    schema: the columns of the output, as pa.Fields with their types in the file, and the metadata of the file. chosen:
    the rows of the output, as a pa.BooleanArray; rows: how many there are. sort_keys: the columns by which rows are
    sorted, as pa.Fields; those that the output has not are added to the tables. wide: the pa.Schema of the tables.
    """

    def __init__(self, source: Readable, settings: OutputSettings, mask: Any, line_column: str | None) -> None:
        self._source = source
        self._read = [line_column] if line_column else list(settings.columns or source.schema.names)
        fields = [source.schema.field(name) for name in self._read]
        self.flag = settings.flag
        if settings.flag is not None:
            fields.append(pa.field(settings.flag, pa.bool_()))
        self.schema = pa.schema(fields, source.schema.metadata)
        match settings.rows:
            case "matched":
                self.chosen = mask
            case "unmatched":
                self.chosen = pc.invert(mask)
            case "all":
                self.chosen = pa.repeat(pa.scalar(True, pa.bool_()), len(mask))
        self.rows: int = self.chosen.true_count
        self._flags = pc.filter_(mask, self.chosen)
        self._is_sorted = settings.order == "key"
        self.sort_keys = [*map(self._sort_key, range(len(source.columns.names)))] if self._is_sorted else []
        self._wide_read = self._wide_of(self._read)
        added = [key for key in self.sort_keys if key.name not in self._read]
        self.wide = pa.schema([*wide_schema(self.schema), *added])

    def _sort_key(self, index: int) -> Any:
        """Return the column that sorts by a key column: itself, or one with the texts that are compared."""
        columns = self._source.columns
        name = columns.names[index]
        if columns.forms[index].is_text and name in self._read:
            return self._source.schema.field(name)
        name = f"key {index}"
        while name in self.schema.names:
            name += " "
        return pa.field(name, pa.large_string())

    def tables(self, budget: int) -> Iterator[Any]:
        """Yield the rows as pa.Tables with the schema `wide`, in the order of the input; raises BadInputError."""
        start = 0
        for rows in self._source.matched(self.chosen, budget):
            columns = widen(rows.select(self._read), self._wide_read).columns
            if self.flag is not None:
                columns.append(pa.chunked_array([self._flags.slice(start, rows.num_rows)]))
            start += rows.num_rows
            for index, key in enumerate(self.sort_keys):
                if key.name not in self._read:
                    columns.append(pa.chunked_array([self._compared(index, rows)]))
            yield pa.table(columns, schema=self.wide)

    def _wide_of(self, names: list[str]) -> Any:
        return wide_schema(pa.schema([self._source.schema.field(name) for name in names]))

    def _compared(self, index: int, rows: Any) -> Any:
        name = self._source.columns.names[index]
        plain = widen(rows.select([name]), self._wide_of([name])).column(0)
        return self._source.columns.compared(index, canonical_text(plain, self._source.schema.field(name).type))
