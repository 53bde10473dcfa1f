"""Reads Parquet files row group by row group, one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psicli.core.errors import InputChangedError, shown
from psicli.core.formats import Format
from psicli.items.text import check_key_types, key_texts
from psicli.tables.kinds import VIEWS
from psicli.tables.source import SourceFile, check_columns, empty, not_utf8, unparsable

T = TypeVar("T")

# At most this many rows, and about this many bytes according to the metadata, are decoded in one batch.
_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 << 20
# Read-ahead buffers: at most this much for a column, and this much for all columns that are read together.
_COLUMN_BUFFER_BYTES = 1 << 20
_BUFFER_BYTES = 16 << 20
# The decoder takes one or two megabytes per column, for a page and a dictionary.
_COLUMNS_AT_ONCE = 16
# The number of threads that read a file with more columns than that; each has its own batch and buffers.
_READERS = 2
# A row group has 122,880 rows, as in DuckDB and others: 60 of their vectors of 2,048. A row group is in memory while it
# is written, so tables with many columns get smaller ones. The size of values in memory has no influence, because the
# bytes must depend only on the rows.
_ROW_GROUP_ROWS = 122_880
_VECTOR_ROWS = 2048
_ROW_GROUP_VALUES = 4_000_000
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())


def row_group_rows(columns: int) -> int:
    """Return the number of rows in a row group, given the number of columns."""
    vectors = _ROW_GROUP_VALUES // (max(columns, 1) * _VECTOR_ROWS)
    return min(max(vectors, 1) * _VECTOR_ROWS, _ROW_GROUP_ROWS)


class ParquetInput(SourceFile):
    """A Parquet file that is read once for its key columns and once for its matched rows.

    schema: the columns as a pa.Schema; expected_rows: the number of rows according to the metadata; both are known once
    the first keys are read. rows: the number of rows read so far.
    """

    def __init__(self, path: Path, name: str, keys: Sequence[str]) -> None:
        super().__init__(path, name)
        self.keys = keys
        self.schema = pa.schema([])
        self.rows = self.expected_rows = 0
        self._group_rows: list[int] = []

    def key_batches(self) -> Iterator[tuple[Any, ...]]:
        """Read the keys of all rows and yield their texts in batches: one pa.LargeStringArray per key column.

        Finds every error in the metadata and in the key columns. Raises BadInputError, InputMissingError.
        """
        with self.watched():
            self.schema = read_schema(self, self.keys)
            columns = list(dict.fromkeys(self.keys))
            file = self._opened(len(columns))
            self._group_rows = [0] * file.num_row_groups
            self.expected_rows = file.metadata.num_rows
            for group in range(file.num_row_groups):
                for batch in self._batches(file, group, columns):
                    self._check_values(batch, self.rows)
                    texts = key_texts(batch, self.keys, partial(self._place, self.rows))
                    self.rows += batch.num_rows
                    self._group_rows[group] += batch.num_rows
                    yield texts

    def matched(self, mask: Any, budget: int) -> Iterator[Any]:
        """Yield the rows that a pa.BooleanArray selects as pa.Tables, in file order.

        Skips row groups without such rows. Files with many columns are read in shares of their columns; each table then
        has as many rows as fit in `budget` [bytes], but at least as many as a row group of the output. Raises
        BadInputError for an error in any column that is read.
        """
        names = self.schema.names
        if len(names) <= _COLUMNS_AT_ONCE:
            file = self._opened(len(names))
            for group, start, wanted in self._wanted(mask):
                yield from self._picked(file, group, names, start, wanted, len(wanted))
            return
        shares = [names[at : at + _COLUMNS_AT_ONCE] for at in range(0, len(names), _COLUMNS_AT_ONCE)]
        assigned = [shares[number::_READERS] for number in range(_READERS)]
        files = [self._opened(_COLUMNS_AT_ONCE) for _ in assigned]
        with ThreadPoolExecutor(_READERS, "psicli-columns") as readers:
            for group, start, wanted in self._wanted(mask):
                size = max(files[0].metadata.row_group(group).total_byte_size, 1)
                most = max(budget * len(wanted) // size, row_group_rows(len(names)))
                for window, stop in _windows(wanted, most):
                    read = partial(self._shares_of, group=group, start=start, wanted=window, stop=stop)
                    parts = readers.map(read, files, assigned)
                    found = {name: values for part in parts for name, values in part.items()}
                    yield pa.table([found[name] for name in names], names=names)

    def _wanted(self, mask: Any) -> Iterator[tuple[int, int, Any]]:
        """Yield the row groups that contain rows of a mask, the first row of each, and its part of the mask."""
        start = 0
        for group, rows in enumerate(self._group_rows):
            wanted = mask.slice(start, rows)
            if wanted.true_count:
                yield group, start, wanted
            start += rows

    def _shares_of(self, file: Any, shares: Sequence[Sequence[str]], **where: Any) -> dict[str, Any]:
        """Return the columns of some shares by name; `where`: the other arguments of _picked."""
        found: dict[str, Any] = {}
        for columns in shares:
            table = pa.concat_tables(self._picked(file, columns=columns, **where))
            found.update(zip(columns, table.columns, strict=True))
        return found

    def _picked(
        self, file: Any, group: int, columns: Sequence[str], start: int, wanted: Any, stop: int
    ) -> Iterator[Any]:
        """Yield some columns of the wanted rows of a row group, all of which come before its row `stop`.

        start: the row of the file at which the row group starts.
        """
        row = count = 0
        for batch in self._batches(file, group, columns):
            if row >= stop:
                break
            self._check_values(batch, start + row)
            part = wanted.slice(row, batch.num_rows)
            row += batch.num_rows
            if part.true_count:
                count += part.true_count
                # pyarrow cannot select rows of views.
                arrays = [values.cast(VIEWS.get(values.type, values.type)) for values in batch.columns]
                yield pa.table(arrays, names=columns).filter(part)
        if count != wanted.true_count:
            raise InputChangedError(path=self.name)

    def ordered_values(self, column: str) -> Any:
        """Return all values of an ordered dictionary column, in their order."""
        file = self._opened(1)
        seen = pa.array([], self.schema.field(column).type.value_type)
        for group in range(file.num_row_groups):
            for batch in self._batches(file, group, [column]):
                dictionary = batch.column(column).dictionary
                if not dictionary.equals(seen.slice(0, len(dictionary))):
                    seen = pc.unique(pa.concat_arrays([seen, dictionary]))
        return seen

    def _opened(self, columns: int) -> Any:
        buffer = min(_BUFFER_BYTES // max(columns, 1), _COLUMN_BUFFER_BYTES)
        # Without a buffer, pyarrow reads whole column chunks of a row group into memory.
        return _parquet(
            lambda: pq.ParquetFile(self.view(), page_checksum_verification=True, buffer_size=buffer), self.name
        )

    def _batches(self, file: Any, group: int, columns: Sequence[str]) -> Iterator[Any]:
        rows = _batch_rows(file.metadata.row_group(group), set(columns))
        batches = _parquet(lambda: file.iter_batches(rows, row_groups=[group], columns=columns), self.name)
        while (batch := _parquet(lambda: next(batches, None), self.name)) is not None:
            # For a column `a`, pyarrow also returns a column named `a.b`.
            yield batch.select(columns)

    def _check_values(self, batch: Any, start: int) -> None:
        """Check that strings are UTF-8, which Parquet does not enforce, and that arrays are valid.

        Raises MalformedInputError.
        """
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            texts = values.dictionary if pa.types.is_dictionary(values.type) else values
            try:
                values.validate()
                texts.validate()
            except pa.ArrowInvalid as exc:
                raise unparsable(self.name, Format.PARQUET) from exc
            try:
                texts.validate(full=texts.type in _TEXT_TYPES)
            except pa.ArrowInvalid as exc:
                row = _first_bad_value(values)
                # A dictionary belongs to the whole row group, so the value may be in a later batch.
                if row is not None:
                    place = f"{self._place(start, row)}, column {shown(column)}"
                    raise not_utf8(place) from exc

    def _place(self, start: int, row: int) -> str:
        """Return the place of a row of a batch: the path and the row number, counted from 1."""
        return f"{self.name}, row {start + row + 1}"


def read_schema(source: SourceFile, keys: Sequence[str]) -> Any:
    """Read the pa.Schema of a Parquet file and check its keys; raises BadInputError, InputMissingError."""
    if not source.size:
        raise empty(source.name)
    schema = _parquet(lambda: pq.ParquetFile(source.file).schema_arrow, source.name)
    check_columns(schema.names, keys, source.name)
    check_key_types([(key, schema.field(key).type) for key in keys], path=source.name)
    return schema


def _parquet(read: Callable[[], T], name: str) -> T:
    try:
        return read()
    except MemoryError:
        raise
    # Arrow raises almost any of its exceptions for a damaged file.
    except (pa.ArrowException, OSError, ValueError) as exc:
        raise unparsable(name, Format.PARQUET) from exc


def _batch_rows(group: Any, columns: set[str]) -> int:
    """Return how many rows of a row group to decode in one batch [rows]."""
    chunks = (group.column(index) for index in range(group.num_columns))
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if chunk.path_in_schema in columns or chunk.path_in_schema.split(".")[0] in columns
    )
    return int(min(max(_BATCH_BYTES * group.num_rows // max(size, 1), 1), _BATCH_ROWS))


def _windows(wanted: Any, most: int) -> Iterator[tuple[Any, int]]:
    """Split a mask into masks that select at most `most` rows; yield each with an exclusive upper bound of its rows."""
    marked = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    for first in range(0, len(marked), most):
        window = np.zeros(len(wanted), bool)
        window[marked[first : first + most]] = True
        # The last window reaches the end, so that the whole row group is checked.
        stop = marked[first + most] if first + most < len(marked) else len(wanted)
        yield pa.array(window), int(stop)


def _first_bad_value(values: Any) -> int | None:
    for row, value in enumerate(values):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return row
    return None
