"""Sorts the matched rows by their keys, on disk if they do not fit in memory.

Rows that fit in memory are sorted there. Otherwise, each share that fits is sorted and written to disk as a run of
batches, and the runs are then merged, a few batches at a time. Rows are ordered by their key texts, then by run, then
by their position in the run. Ties therefore keep the order of the file, and each step of the merge takes all rows up to
a position in this order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import pyarrow as pa

from psicli.items import compute as pc
from psicli.items.text import canonical_text
from psicli.outputs.columns import content_bytes
from psicli.outputs.rows.ordering import order_of_texts
from psicli.storage.spool import Spool, SpoolFile

# The budget has three shares: the rows in memory, their columns joined, and the sorted output.
SHARES = 3
# The size of a batch [bytes]. The merge holds one batch of every run in memory, which limits the size.
_LEAST_BATCH_BYTES, _MOST_BATCH_BYTES = 16 << 10, 1 << 20
# A step of the merge takes at least this much memory, even if the budget is smaller [bytes].
_LEAST_STEP_BYTES = 4 << 20
# pyarrow cannot join columns of more than 2 GiB with 32-bit offsets, such as lists. So much is joined at most [bytes].
_JOINED_BYTES = 1 << 30
# The overhead of an array [bytes].
_ARRAY_BYTES = 256

# Null sorts after every text, as it does in pyarrow.
Key = tuple[tuple[bool, str], ...]


class _Batch(NamedTuple):
    """A batch of a run: its offset and size on disk, and its first and last keys."""

    offset: int
    size: int
    first: Key
    last: Key


class _Place(NamedTuple):
    """A position in the order of all rows: the one after the last row of a batch."""

    key: Key
    run: int
    batch: int


class RowSorter:
    """Collects tables of one schema and returns their rows sorted by the key texts; ties keep their order.

    keys: the key columns, as pa.Fields with their types in the file. rows: the number of rows to come; budget: roughly
    the memory they may take [bytes].
    """

    def __init__(self, schema: Any, keys: Sequence[Any], rows: int, budget: int, spool: Spool | None) -> None:
        self._schema = schema
        self._keys = keys
        self._rows = rows
        self._limit = budget // SHARES
        if any(map(pa.types.is_nested, schema.types)):
            self._limit = min(self._limit, _JOINED_BYTES)
        self._spool = spool
        self._bytes = 0
        self._held: list[Any] = []
        self._held_bytes = 0
        # The file with the sorted runs, if there are any, and for each run the batch and row that the merge reads next.
        self._file: SpoolFile | None = None
        self._batch_bytes = 0
        self._runs: list[list[_Batch]] = []
        self._next: list[tuple[int, int]] = []

    @property
    def row_bytes(self) -> int:
        """Return the average content of a row [bytes]."""
        return -(-self._bytes // max(self._rows, 1))

    def add(self, table: Any) -> None:
        """Add the rows of a pa.Table; raises StorageError."""
        size = table.nbytes + _ARRAY_BYTES * table.num_columns
        self._held.append(table)
        self._held_bytes += size
        self._bytes += content_bytes(table)
        if self._held_bytes > self._limit:
            self._write_run()

    def sorted(self, rows: int) -> Iterator[Any]:
        """Yield all rows as tables of `rows` rows, or fewer if they are very large. Raises StorageError.

        Columns are single chunks.
        """
        if self._file is None:
            tables = self._sorted(self._held, rows)
        else:
            if self._held:
                self._write_run()
            steps = (table for pieces in self._steps() for table in self._sorted(pieces, rows))
            tables = _regrouped(steps, self._schema, rows)
        yield from chain.from_iterable(map(partial(_parts, self._schema), tables))

    def close(self) -> None:
        """Remove the file with the runs, if there is one."""
        if self._file is not None:
            self._file.close()

    def _write_run(self) -> None:
        """Sort the rows in memory and write them to disk as a run, batch by batch."""
        held_bytes, self._held_bytes = self._held_bytes, 0
        held_rows = sum(table.num_rows for table in self._held)
        if self._file is None:
            total = held_bytes * self._rows // held_rows
            self._batch_bytes = min(max(self._limit**2 // (2 * total), _LEAST_BATCH_BYTES), _MOST_BATCH_BYTES)
            assert self._spool is not None
            self._file = self._spool.file("rows", total)
        run = []
        for table in self._sorted(self._held, max(self._batch_bytes * held_rows // held_bytes, 1)):
            data = table.to_batches()[0].serialize()
            texts = _key_texts(table, self._keys)
            run.append(_Batch(self._file.append(data), data.size, _key(texts, 0), _key(texts, table.num_rows - 1)))
        self._runs.append(run)
        self._next.append((0, 0))

    def _sorted(self, tables: list[Any], rows: int) -> Iterator[Any]:
        """Sort the rows of several tables, empty their list, and yield tables of `rows` rows."""
        table = joined(tables, self._schema)
        order = _key_order(_key_texts(table, self._keys))
        # One take for all columns: a call costs as much as the work it does on one column.
        batch = pa.RecordBatch.from_arrays([column.chunk(0) for column in table.columns], schema=self._schema)
        for start in range(0, len(order), rows):
            yield pa.Table.from_batches([pc.take(batch, order.slice(start, rows))])

    def _steps(self) -> Iterator[list[Any]]:
        """Yield the steps of the merge in order: the unsorted pieces of each, about as many as fit in memory."""
        batches = ((run, *each) for run, batches in enumerate(self._runs) for each in enumerate(batches))
        places = sorted(_Place(batch.last, run, index) for run, index, batch in batches)
        # Besides whole batches, a step holds part of one batch of every run.
        whole = max(max(self._limit, _LEAST_STEP_BYTES) // self._batch_bytes - len(self._runs), 1)
        for end in [*range(whole, len(places), whole), len(places)]:
            place = places[end - 1]
            yield [piece for run in range(len(self._runs)) for piece in self._rows_up_to(place, run)]

    def _rows_up_to(self, place: _Place, run: int) -> Iterator[Any]:
        """Read the next rows of a run, up to a position in the order."""
        index, row = self._next[run]
        batches = self._runs[run]
        while index < len(batches) and _Place(batches[index].last, run, index) <= place:
            yield self._read(batches[index]).slice(row)
            index, row = index + 1, 0
        if index < len(batches) and batches[index].first <= place.key:
            table = self._read(batches[index])
            texts = _key_texts(table, self._keys)
            # Rows with the same key are ordered by run.
            bisect = bisect_right if run < place.run else bisect_left
            end = bisect(range(len(table)), place.key, lo=row, key=lambda at: _key(texts, at))
            yield table.slice(row, end - row)
            row = end
        self._next[run] = index, row

    def _read(self, batch: _Batch) -> Any:
        assert self._file is not None
        data = bytearray(batch.size)
        self._file.read_at(batch.offset, memoryview(data))
        return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(data), self._schema)])


def _key_texts(table: Any, keys: Sequence[Any]) -> list[Any]:
    return [_without_empty(canonical_text(table.column(key.name), key.type)) for key in keys]


def _without_empty(text: Any) -> Any:
    """Return texts with null in place of the empty ones: as a key, both match nothing."""
    empty = pc.equal(pc.binary_length(text), 0)
    return pc.if_else(empty, None, text) if pc.any(empty).as_py() else text


def _key(texts: Sequence[Any], row: int) -> Key:
    return tuple((value is None, value or "") for value in (text[row].as_py() for text in texts))


def joined(tables: list[Any], schema: Any) -> Any:
    """Join tables into one whose columns are single chunks, and empty their list."""
    columns = pa.concat_tables([schema.empty_table(), *tables]).columns
    tables.clear()
    # Column by column, so that only one column at a time is in memory twice.
    for index in range(len(columns)):
        chunks = [chunk for chunk in columns[index].chunks if len(chunk)] or columns[index].chunks
        columns[index] = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    return pa.Table.from_arrays(columns, schema=schema)


def _key_order(texts: Sequence[Any]) -> Any:
    """Return the order of the rows by their texts, compared byte by byte, column by column; ties keep their order."""
    order = order_of_texts(texts)
    if order is not None:
        return pc.from_numpy(order)
    table = pa.table({str(index): column for index, column in enumerate(texts)})
    return pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])


def _regrouped(tables: Iterator[Any], schema: Any, rows: int) -> Iterator[Any]:
    """Regroup the rows of tables into tables of `rows` rows."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        # Only `waiting` may hold the rows.
        del table
        while waiting.num_rows >= rows:
            part, waiting = [waiting.slice(0, rows)], waiting.slice(rows)
            yield part.pop()
    if waiting.num_rows:
        yield waiting


def _parts(schema: Any, table: Any) -> Iterator[Any]:
    """Divide a table into halves until pyarrow can join each part; how often depends on the rows alone."""
    middle = table.num_rows // 2
    if middle and content_bytes(table) > _JOINED_BYTES:
        yield from _parts(schema, table.slice(0, middle))
        yield from _parts(schema, table.slice(middle))
        return
    # Only the list may hold the rows.
    held = [table]
    del table
    yield joined(held, schema)
