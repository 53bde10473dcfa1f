"""Reads Arrow IPC files (also called Feather V2) and streams batch by batch.

pyarrow checks little of what it reads from them: offsets, indices and text are as the file has them. psicli therefore
checks every array completely before it uses it, in both passes. It does not map the file into memory, because the
process would be killed if the file became shorter.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa

from psicli.core import places
from psicli.core.errors import ColumnError, InputChangedError, MalformedInputError, shown
from psicli.core.formats import COLUMNAR, FileFormat, Format
from psicli.items import compute as pc
from psicli.items import kinds
from psicli.items.forms.columns import KeyColumns
from psicli.items.text import check_key_types
from psicli.tables.source import SourceFile, check_schema, empty, numbered, unparsable
from psicli.tables.values import Place, Sample, check_values, plain_rows, unkept, wrong_count

_FILE_MAGIC = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
# pyarrow raises almost any of its exceptions for a damaged file.
_LIBRARY_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError)
# The keys of at most this many rows are converted in one step.
_STEP_ROWS = 131_072
# Columns are read one by one if the batches of a file are larger than this on average [bytes].
_BATCH_BYTES = 16 << 20
# The milliseconds of a day.
_DAY = 86_400_000


class ArrowInput(SourceFile):
    """An Arrow file or stream that is read once completely and once for its matched rows.

    output: the format of the output, or None if this party writes none; then only the key columns are ever checked.
    schema: the columns as a pa.Schema, known once the first keys are read; rows: the number of rows read so far;
    expected_rows: the number of rows according to a file, or an estimate for a stream.
    """

    def __init__(self, place: places.Place, name: str, columns: KeyColumns, output: FileFormat | None = None) -> None:
        super().__init__(place, name, columns)
        # The columns in use, and all columns of the file.
        self.schema = self._all = pa.schema([])
        self.rows = self.expected_rows = 0
        self._output = output
        # Whether the batches are so large that the columns are read one by one; a stream does not allow it.
        self._is_stream = self._in_shares = False
        self._batch_rows: list[int] = []
        # The columns whose bytes must be text.
        self._as_text: frozenset[str] = frozenset()

    def header(self) -> None:
        """Read the schema and check the key columns; raises BadInputError, InputMissingError."""
        if not self.size:
            raise empty(self.name)
        self._is_stream = self.view().read(len(_FILE_MAGIC)) != _FILE_MAGIC
        with self._explained():
            reader = self._reader()
            self.schema = self._all = reader.schema
            self._in_shares = not self._is_stream and self.size > _BATCH_BYTES * reader.num_record_batches
        for index, field in enumerate(self.schema):
            try:
                # Either of the two can fail alone.
                field.name, str(field)
            except UnicodeDecodeError as exc:
                raise MalformedInputError(
                    place=self.name,
                    fault=f"the name of column {index + 1} is not UTF-8 text",
                    advice="Write the file again with another name for this column.",
                ) from exc
        check_schema(self.schema, self.keys, self.name)
        self.check_selected(self.schema.names)
        self.schema = self.selection.of(self._all, self.keys)
        for field in self.schema:
            try:
                pa.nulls(0, field.type)
            except LookupError as exc:
                # pyarrow knows the type, but has no arrays of it: intervals of months, or of days and milliseconds.
                if field.name in self.keys or self._output is not None:
                    raise unkept(self.name, field.name, field.type) from exc
            # The rehearsal finds out what else pyarrow cannot do.
            except pa.ArrowException:
                pass
        check_key_types([(key, self.schema.field(key).type) for key in self.keys], path=self.name)
        text_output = self._output is not None and self._output.kind not in COLUMNAR
        self._as_text = frozenset(self.schema.names if text_output else self.keys)

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column.

        Finds every error in the file, because after the exchange it would be too late; a party without an output checks
        only the key columns. Raises BadInputError, InputMissingError.
        """
        with self.watched():
            self.header()
            others = [] if self._output is None else [name for name in self.schema.names if name not in self.keys]
            first, *shares = self._shares([*dict.fromkeys(self.keys), *others], len(self.keys))
            for batch in self._batches(first):
                keys = batch.select(self.keys)
                for at in range(0, batch.num_rows, _STEP_ROWS):
                    step = keys.slice(at, _STEP_ROWS)
                    place = partial(self._place, len(self._batch_rows), at)
                    texts = self.columns.texts(step, place, partial(numbered, self.rows))
                    self.rows += step.num_rows
                    yield texts
                self._batch_rows.append(batch.num_rows)
            for share in shares:
                for _ in self._batches(share):
                    pass
            if self.expected_rows != self.rows:
                raise wrong_count(self.name, self.rows, self.expected_rows)

    def part(self) -> Any:
        """Return what has been found, for `join`."""
        return self._batch_rows

    def join(self, parts: Iterable[Any]) -> None:
        """Take over what another object has found in the same file."""
        for rows in parts:
            self._batch_rows += rows
            self.rows += sum(rows)

    def matched(self, mask: Any, budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables of at most `budget` [bytes], in file order.

        Batches without such rows are not read from a file. Raises BadInputError.
        """
        starts = accumulate(self._batch_rows, initial=0)
        parts = [mask.slice(start, rows) for start, rows in zip(starts, self._batch_rows, strict=False)]
        wanted = {index: part for index, part in enumerate(parts) if part.true_count}
        for rows in self._picked(wanted):
            most = max(budget * rows.num_rows // max(rows.nbytes, 1), 1)
            for at in range(0, rows.num_rows, most):
                yield rows.slice(at, most)

    def sample(self) -> Sample:
        """Return the first row of the file; raises BadInputError, InputMissingError."""
        self.header()
        counts = ((index, batch.num_rows) for index, batch in enumerate(self._batches(self.keys)))
        index, rows = next(((index, rows) for index, rows in counts if rows), (0, 0))
        first = {index: pa.array([True] + [False] * (rows - 1))} if rows else {}
        return Sample(self.schema, self.keys, self.name, next(self._picked(first), None), self.utc_times)

    def ordered_values(self, column: str) -> Any:
        """Return all values of an ordered dictionary column, in their order."""
        seen = pa.array([], self.schema.field(column).type.value_type)
        for batch in self._batches([column]):
            dictionary = batch.column(column).dictionary
            if not dictionary.equals(seen.slice(0, len(dictionary))):
                seen = pc.unique(pa.concat_arrays([seen, dictionary]))
        return seen

    # Batches

    def _shares(self, columns: Sequence[str], first: int = 1) -> list[Sequence[str]]:
        """Divide columns into shares to read at once; if the batches are large, only the `first` ones are together."""
        if not self._in_shares:
            return [columns]
        return [columns[:first], *([column] for column in columns[first:])]

    def _picked(self, wanted: Mapping[int, Any]) -> Iterator[Any]:
        """Yield the wanted rows of batches as pa.Tables in plain types. wanted: masks by the index of the batch."""
        names = self.schema.names
        shares = self._shares(names)
        if len(shares) == 1:
            batches = self._batches(names, wanted)
            yield from (self._filtered(next(batches, None), mask) for mask in wanted.values())
            return
        for index, mask in wanted.items():
            parts = [self._filtered(batch, mask) for share in shares for batch in self._batches(share, [index])]
            yield pa.table([column for part in parts for column in part.columns], names=names)

    def _filtered(self, batch: Any, mask: Any) -> Any:
        """Return the rows of a batch that a mask selects, as a pa.Table in plain types."""
        if batch is None or batch.num_rows != len(mask):
            raise InputChangedError(path=self.name)
        rows = plain_rows(batch, self.name)
        columns = {}
        for column, values in zip(rows.column_names, rows.columns, strict=True):
            try:
                columns[column] = pc.filter_(values, mask)
            except pa.ArrowException as exc:
                raise unkept(self.name, column, batch.schema.field(column).type) from exc
        return pa.table(columns)

    def _batches(self, columns: Sequence[str], indices: Collection[int] | None = None) -> Iterator[Any]:
        """Read columns of all batches, or of those with these indices, and check that all their values are valid."""
        batches = (self._from_stream if self._is_stream else self._from_file)(columns, indices)
        while True:
            with self._explained():
                index, batch = next(batches, (0, None))
            if batch is None:
                return
            self._check(batch, partial(self._place, index, 0))
            yield batch

    def _from_file(self, columns: Sequence[str], indices: Collection[int] | None) -> Iterator[tuple[int, Any]]:
        reader = self._reader(columns)
        self.expected_rows = self.expected_rows or reader.count_rows()
        for index in range(reader.num_record_batches) if indices is None else indices:
            yield index, reader.get_batch(index)

    def _from_stream(self, columns: Sequence[str], indices: Collection[int] | None) -> Iterator[tuple[int, Any]]:
        view = self.view()
        reader = pa.ipc.open_stream(view, options=self._options(columns))
        rows = 0
        for index, batch in enumerate(reader):
            rows += batch.num_rows
            self.expected_rows = rows * self.size // max(view.tell(), 1)
            if indices is None or index in indices:
                yield index, batch
        # Without its end, a stream may lack batches. What follows the end was never read.
        at = view.tell()
        view.seek(-len(_STREAM_END), os.SEEK_END)
        if at != self.size or view.read(len(_STREAM_END)) != _STREAM_END:
            raise MalformedInputError(
                place=self.name,
                fault="the Arrow stream has no end, or something follows the end",
                advice="Check that the stream is complete, and that no other stream was appended to it.",
            )

    def _reader(self, columns: Sequence[str] = ()) -> Any:
        open_reader = pa.ipc.open_stream if self._is_stream else pa.ipc.open_file
        return open_reader(self.view(), options=self._options(columns))

    def _options(self, columns: Sequence[str]) -> Any:
        """Return the options to read only these columns; without columns, all are read."""
        return pa.ipc.IpcReadOptions(included_fields=sorted(map(self._all.get_field_index, columns)))

    def _check(self, batch: Any, place: Place) -> None:
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            stored = values.storage if kinds.is_extension(values.type) else values
            try:
                # A batch keeps the sizes of its buffers only until it is relabelled.
                values.validate()
                if pa.types.is_dictionary(stored.type):
                    # Finding the row of an invalid value reads the dictionary.
                    stored.dictionary.validate(full=True)
            except pa.ArrowException as exc:
                raise unparsable(f"{self.name}, column {shown(column)}", Format.ARROW) from exc
        check_values(batch, place, self._as_text)
        # The rows that matched need plain types; what these cannot hold must fail in the first pass.
        plain_rows(batch, self.name)
        stored = kinds.relabelled(batch, kinds.with_types(batch.schema, kinds.stored))
        for field, values in zip(stored.schema, stored.columns, strict=True):
            with self._explained():
                fault = next(filter(None, (self._fault(*part) for part in _parts(field, values))), None)
            if fault:
                raise MalformedInputError(
                    place=self.name,
                    fault=f"the column {shown(field.name)} of type {shown(str(field.type))} has {fault}",
                    advice="Correct the value, or write the column with another type.",
                )

    def _fault(self, field: Any, values: Any) -> str | None:
        """Return which values cannot be kept, because pyarrow would change them silently or refuse them too late.

        field: the values' pa.Field, in the column or inside its type.
        """
        if not field.nullable and values.null_count:
            # pyarrow cannot write it to Parquet, not even under a null struct.
            return "a null where none is allowed"
        to_parquet = self._output is not None and self._output.kind is Format.PARQUET
        is_date = values.type == pa.date64()
        farthest = _farthest(values.type)
        if farthest is None or not (to_parquet or is_date):
            return None
        numbers = pc.drop_null(values).view(f"int{values.type.bit_width}").to_numpy()
        if ((numbers < -farthest) | (numbers > farthest)).any():
            return "a value that is too large for a date or for Parquet"
        return "a date that is not a whole day" if to_parquet and is_date and (numbers % _DAY).any() else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise a BadInputError for what pyarrow raises."""
        try:
            yield
        except MemoryError as exc:
            raise MalformedInputError(
                place=self.name,
                fault="a batch of rows needs more memory than there is",
                advice="Write the file again with smaller batches; if its batches are small, it is damaged.",
            ) from exc
        except pa.ArrowNotImplementedError as exc:
            raise ColumnError(
                place=self.name,
                fault="a column is of a type that cannot be read",
                advice="Cast columns of rare types, such as integers of 128 bits, or leave them out of the input.",
            ) from exc
        except _LIBRARY_ERRORS as exc:
            raise unparsable(self.name, Format.ARROW) from exc

    def _place(self, index: int, start: int, row: int) -> str:
        """Return the place of a row of a batch, or of its part from `start`: the path and the row number, from 1."""
        return f"{self.name}, row {sum(self._batch_rows[:index]) + start + row + 1}"


def _farthest(kind: Any) -> int | None:
    """Return the largest number, by absolute value, of a type whose unit is too small for Parquet; None for others."""
    if pa.types.is_timestamp(kind) and kind.unit == "s":
        return (2**63 - 1) // 1000
    if kind == pa.time32("s"):
        return (2**31 - 1) // 1000
    return (2**31 - 1) * _DAY if kind == pa.date64() else None


def _parts(field: Any, values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield an array and all arrays inside it that belong to values, each with its pa.Field."""
    yield field, values
    kind = values.type
    if pa.types.is_map(kind):
        pairs = kinds.pairs(values).flatten()
        yield from _parts(kind.key_field, pairs.field(0))
        yield from _parts(kind.item_field, pairs.field(1))
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _parts(kind.field(index), values.field(index))
    elif pa.types.is_dictionary(kind):
        yield from _parts(pa.field("values", kind.value_type), values.dictionary)
    elif hasattr(kind, "value_field"):
        yield from _parts(kind.value_field, values.flatten())
