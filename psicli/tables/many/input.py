"""Reads the files of an input one after the other, as if they were one file.

Only one file is open at a time. After the first reading, an input keeps for each file what that reading found: where
its blocks or row groups are, which the second reading needs. Both readings end with a look at the files that the
places name by then: none may have come, gone or changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import pyarrow as pa

from psicli.core.errors import ColumnError, InputChangedError, PsicliError, shown
from psicli.core.formats import FileFormat, Format
from psicli.items import compute as pc
from psicli.items.forms.columns import KeyColumns
from psicli.tables.jsonl import JsonlInput
from psicli.tables.many.parts import OneFile, PartColumns, joined_identity, open_file, repeated
from psicli.tables.many.schema import Columns
from psicli.tables.many.sources import Part, Source
from psicli.tables.parquet import ParquetInput
from psicli.tables.source import UNPACKED, check_selection
from psicli.tables.values import ALL, Int96, Sample, Selection

# Before a run meets its peer, it looks at the columns of so many files.
_CHECKED_PARTS = 100
_TEXT = FileFormat(Format.CSV)


class _Read(NamedTuple):
    """What the first reading found in a file. found: for the file's `join`."""

    identity: tuple[int | str, ...]
    rows: int
    found: Any


class ManyInput:
    """An input of many files that is read once for its keys and once for its matched rows.

    Its attributes are those of an input of one file. Every method raises InputChangedError if a file has come, gone or
    changed since the files were found, and else what the readers of the files raise.
    """

    def __init__(
        self, source: Source, columns: KeyColumns, output: FileFormat | None, selection: Selection = ALL
    ) -> None:
        self.name = source.name
        self.columns = columns
        self.keys = columns.names
        self.rows = 0
        self.size = sum(part.size for part in source.parts)
        self.content_bytes = sum(part.size * (UNPACKED if part.format.is_packed else 1) for part in source.parts)
        self.utc_times = False
        self.line_column: str | None = None
        self._source = source
        self._parts = source.parts
        kinds = {part.format.kind for part in self._parts}
        self.unit = "line" if kinds <= {Format.CSV, Format.TSV, Format.JSONL} else "row"
        self._given = tuple(name for name, _ in self._parts[0].values)
        self._is_jsonl = kinds == {Format.JSONL}
        as_lines = self._is_jsonl and not self._given
        # Whole lines can be copied only if all files have lines, and all columns are in them.
        is_jsonl_output = output is not None and output.kind is Format.JSONL
        self._output = output
        self._selection = selection
        self._part_output = _TEXT if is_jsonl_output and not as_lines else output
        self._columns: Columns | None = None
        self._int96 = Int96()
        self._read: list[_Read] = []
        # The rows and the size of the files before the one that is being read, and that one.
        self._before = (0, 0)
        self._current: OneFile | None = None

    @property
    def schema(self) -> Any:
        """The columns as a pa.Schema: those of the files, then those that their paths give."""
        own = pa.schema([]) if self._columns is None else self._columns.unified
        given = [pa.field(name, pa.string()) for name in self._given if name not in own.names]
        return self._needed(pa.schema([*own, *given], metadata=own.metadata))

    @property
    def expected_rows(self) -> int:
        """Estimate the number of rows from those of the files read so far [rows]."""
        rows, size = self._before
        if self._current is not None:
            rows, size = rows + self._current.expected_rows, size + self._current.size
        return max(rows * self.size // max(size, 1), self.rows)

    @property
    def identity(self) -> tuple[int | str, ...]:
        """What tells these files from others, once their keys are read."""
        return joined_identity(self._source, [read.identity for read in self._read])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise InputChangedError if the files are others by the end of the block, even after another error."""
        try:
            yield
        except PsicliError:
            self._source.check_listing()
            raise
        self._source.check_listing()

    def header(self) -> Any:
        """Check the columns of the first files, and return them."""
        with self.watched():
            self._refer()
            for part in self._parts[:_CHECKED_PARTS]:
                with self._opened(part) as file:
                    self._check(part, file)
        return self.schema

    def sample(self) -> Sample:
        """Return the first row of the first files, and check their columns."""
        self.header()
        assert self._columns is not None
        rows = None
        for part in self._parts[:_CHECKED_PARTS]:
            with self._opened(part) as file:
                found = file.sample()
                if found.rows is not None:
                    rows = self._whole(part, file, found.rows)
                    break
        return Sample(self.schema, self.keys, self.name, rows, self.utc_times)

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column."""
        with self.watched():
            self._refer()
            for part in self._parts:
                with self._opened(part) as file:
                    self._current = file
                    if not isinstance(file, JsonlInput):
                        self._check(part, file)
                    for texts in file.key_batches():
                        self.rows += len(texts[0])
                        yield texts
                    self._note(part, file)
            self._current = None
            self._finish()

    def matched(self, mask: Any, budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables, in the order of the files."""
        start = 0
        for part, read in zip(self._parts, self._read, strict=True):
            wanted = mask.slice(start, read.rows)
            start += read.rows
            if wanted.true_count:
                with self._reopened(part, read) as file, file.watched():
                    for rows in file.matched(wanted, budget):
                        yield self._whole(part, file, rows)

    def ordered_values(self, column: str) -> Any:
        """Return all values of an ordered dictionary column, in their order."""
        if column in self._given:
            return pa.array([], pa.string())
        found = []
        for part, read in zip(self._parts, self._read, strict=True):
            with self._reopened(part, read) as file:
                found.append(file.ordered_values(column))
        return pc.unique(pa.concat_arrays(found))

    def close(self) -> None:
        """End the processes that convert keys; does nothing if there are none."""
        self.columns.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Files

    def _opened(self, part: Part) -> OneFile:
        output = self._part_output if part.format.kind is Format.JSONL else self._output
        columns = self._selection.columns
        if columns is not None:
            columns = tuple(name for name in columns if name not in self._given)
        file = open_file(part, PartColumns(self.columns, part), output, self._selection._replace(columns=columns))
        if isinstance(file, ParquetInput):
            file.int96 = self._int96
        return file

    def _reopened(self, part: Part, read: _Read) -> OneFile:
        """Open a file again to read rows of it; raises InputChangedError if it is another one."""
        file = self._opened(part)
        if file.identity != read.identity:
            file.close()
            raise InputChangedError(path=part.name)
        file.header()
        file.join([read.found])
        return file

    def _refer(self) -> None:
        """Find out which columns the files should have: those of the first file that names its columns."""
        if self._columns is not None:
            return
        part = next((part for part in self._parts if part.format.kind is not Format.JSONL), self._parts[0])
        with self._opened(part) as file:
            file.header()
            if self._selection.columns is None:
                check_selection(self._given, self._selection, part.name)
            self._columns = Columns(self._needed(file.schema), part.name, self._output)
            self.utc_times = file.utc_times
            if self._is_jsonl:
                self.line_column = getattr(file, "line_column", None)

    def _check(self, part: Part, file: OneFile) -> None:
        """Check the columns of a file, or those of its first objects."""
        file.header()
        if isinstance(file, JsonlInput):
            return
        assert self._columns is not None
        assert isinstance(file.columns, PartColumns)
        self._columns.check(self._needed(file.schema), part.name)
        if file.utc_times != self.utc_times and self._output is not None:
            raise ColumnError(
                place=part.name,
                fault=f"its times of day are {'' if file.utc_times else 'not '}in UTC, unlike those of "
                f"{self._parts[0].name}",
                advice="Write all files with the same types.",
            )
        file.columns.add_given([name for name in file.schema.names if name in self._given])
        file.keys = file.columns.names

    def _note(self, part: Part, file: OneFile) -> None:
        """Remember what the second reading needs to know about a file."""
        assert self._columns is not None
        if isinstance(file, JsonlInput):
            if both := {*file.schema.names}.intersection(self._given):
                raise ColumnError(
                    place=part.name,
                    fault=f"the objects have a name {shown(min(both))}, which the file's path gives, too",
                    advice="Leave the name out of the objects, or name the files with a pattern below that folder.",
                )
            if self._is_jsonl:
                self._columns.add(file.schema)
            elif file.rows:
                self._columns.check(self._needed(file.schema), part.name, optional=True)
        self._read.append(_Read(file.identity, file.rows, file.part()))
        rows, size = self._before
        self._before = rows + file.rows, size + file.size

    def _finish(self) -> None:
        """Take over the unit that holds the INT96 timestamps of all files."""
        assert self._columns is not None
        first = next((index for index, part in enumerate(self._parts) if part.format.kind is Format.PARQUET), None)
        if first is not None and self._int96.unit() != "ns":
            with self._reopened(self._parts[first], self._read[first]) as file:
                self._columns.take_over(file.schema)

    def _needed(self, schema: Any) -> Any:
        """Return the columns of a pa.Schema that the output needs, and the keys."""
        return self._selection.of(schema, self.keys)

    def _whole(self, part: Part, file: OneFile, rows: Any) -> Any:
        """Return rows of a file with the columns of the input."""
        assert self._columns is not None
        table = self._columns.aligned(rows, file.schema)
        for name, value in part.values:
            if name not in table.column_names and name in self.schema.names:
                table = table.append_column(name, repeated(value, table.num_rows))
        return table
