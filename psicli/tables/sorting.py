"""Matched rows sorted by their keys, on disk where they do not fit in memory.

What fits is sorted at once. Else every share of the rows that fits is sorted and written down as a run, cut into
batches; then the runs are merged, as many batches at a time as fit. The order of all rows is that of their key texts,
of the runs, and of the rows of a run, so that ties stay in the order of the file, and so that a step of the merge is:
all rows up to a place in this order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from psicli.storage.spool import Spool, SpoolFile
from psicli.tables.text import canonical_text

# Shares of the budget: the rows that are held, their columns put together, and what is made of them.
SHARES = 3
# A batch of a run [bytes]: as large as the merge allows, since every run has one in memory.
_LEAST_BATCH_BYTES, _MOST_BATCH_BYTES = 16 << 10, 1 << 20
# A step of the merge takes as much even where the budget is less [bytes].
_LEAST_STEP_BYTES = 4 << 20
# What an array takes beside its values [bytes].
_ARRAY_BYTES = 256

# Null comes after every text, as pyarrow sorts it.
Key = tuple[tuple[bool, str], ...]


class _Batch(NamedTuple):
    """A batch of a run: where it is on disk, and its first and last keys."""

    offset: int
    size: int
    first: Key
    last: Key


class _Place(NamedTuple):
    """A place in the order of all rows: after the last row of a batch."""

    key: Key
    run: int
    batch: int


class RowSorter:
    """Takes tables of one schema and gives their rows sorted by the texts of the key columns; ties keep their order.

    rows: how many there will be; budget: about what they may take in memory [bytes].
    """

    def __init__(self, schema: Any, keys: Sequence[str], rows: int, budget: int, spool: Spool) -> None:
        self._schema = schema
        self._keys = keys
        self._rows = rows
        self._limit = budget // SHARES
        self._spool = spool
        self._bytes = 0
        self._held: list[Any] = []
        self._held_bytes = 0
        # Where the sorted runs are, if there are any, and of every run the batch to go on with and the row of it.
        self._file: SpoolFile | None = None
        self._batch_bytes = 0
        self._runs: list[list[_Batch]] = []
        self._next: list[tuple[int, int]] = []

    @property
    def row_bytes(self) -> int:
        """Tell what a row takes on average [bytes]."""
        return -(-self._bytes // max(self._rows, 1))

    def add(self, table: Any) -> None:
        size = table.nbytes + _ARRAY_BYTES * table.num_columns
        self._held.append(table)
        self._held_bytes += size
        self._bytes += size
        if self._held_bytes > self._limit:
            self._write_run()

    def sorted(self, rows: int) -> Iterator[Any]:
        """Give all rows as tables of so many rows; only the last one has fewer."""
        if self._file is None:
            yield from self._sorted(self._held, rows)
            return
        if self._held:
            self._write_run()
        steps = (table for pieces in self._steps() for table in self._sorted(pieces, rows))
        yield from _regrouped(steps, self._schema, rows)

    def close(self) -> None:
        """Remove what is on disk."""
        if self._file is not None:
            self._file.close()

    def _write_run(self) -> None:
        """Sort what is held and write it down, a batch after the other."""
        held_bytes, self._held_bytes = self._held_bytes, 0
        held_rows = sum(table.num_rows for table in self._held)
        if self._file is None:
            total = held_bytes * self._rows // held_rows
            self._batch_bytes = min(max(self._limit**2 // (2 * total), _LEAST_BATCH_BYTES), _MOST_BATCH_BYTES)
            self._file = self._spool.file("rows", total)
        run = []
        for table in self._sorted(self._held, max(self._batch_bytes * held_rows // held_bytes, 1)):
            data = table.to_batches()[0].serialize()
            texts = _key_texts(table, self._keys)
            run.append(_Batch(self._file.append(data), data.size, _key(texts, 0), _key(texts, table.num_rows - 1)))
        self._runs.append(run)
        self._next.append((0, 0))

    def _sorted(self, tables: list[Any], rows: int) -> Iterator[Any]:
        """Sort tables together; takes them out of their list, and gives tables of so many rows."""
        joined = _joined(tables, self._schema)
        order = _key_order(_key_texts(joined, self._keys))
        # One piece, and all columns at once: each call of its own would cost as much as what it does.
        batch = pa.RecordBatch.from_arrays([column.chunk(0) for column in joined.columns], schema=self._schema)
        for start in range(0, len(order), rows):
            yield pa.Table.from_batches([batch.take(order.slice(start, rows))])

    def _steps(self) -> Iterator[list[Any]]:
        """Give the rows in order, step by step: about the limit in tables that are yet to be sorted together."""
        batches = ((run, *each) for run, batches in enumerate(self._runs) for each in enumerate(batches))
        places = sorted(_Place(batch.last, run, index) for run, index, batch in batches)
        # Beside its whole batches a step has a part of one of every run.
        whole = max(max(self._limit, _LEAST_STEP_BYTES) // self._batch_bytes - len(self._runs), 1)
        for end in [*range(whole, len(places), whole), len(places)]:
            place = places[end - 1]
            yield [piece for run in range(len(self._runs)) for piece in self._rows_up_to(place, run)]

    def _rows_up_to(self, place: _Place, run: int) -> Iterator[Any]:
        """Take the next rows of a run, up to a place."""
        index, row = self._next[run]
        batches = self._runs[run]
        while index < len(batches) and _Place(batches[index].last, run, index) <= place:
            yield self._read(batches[index]).slice(row)
            index, row = index + 1, 0
        if index < len(batches) and batches[index].first <= place.key:
            table = self._read(batches[index])
            texts = _key_texts(table, self._keys)
            # Rows of the same key come run by run.
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


def _key_texts(table: Any, keys: Sequence[str]) -> list[Any]:
    return [canonical_text(table.column(key)) for key in keys]


def _key(texts: Sequence[Any], row: int) -> Key:
    return tuple((value is None, value or "") for value in (text[row].as_py() for text in texts))


def _joined(tables: list[Any], schema: Any) -> Any:
    """Put tables together to one without cuts; takes them out of their list."""
    columns = pa.concat_tables([schema.empty_table(), *tables]).columns
    tables.clear()
    # Column by column, so that one alone is there twice.
    for index in range(len(columns)):
        chunks = [chunk for chunk in columns[index].chunks if len(chunk)] or columns[index].chunks
        columns[index] = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    return pa.Table.from_arrays(columns, schema=schema)


def _key_order(texts: Sequence[Any]) -> Any:
    """Sort bytewise, column by column; the sort is stable, so ties stay in the order they came in."""
    table = pa.table({str(index): column for index, column in enumerate(texts)})
    return pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])


def _regrouped(tables: Iterator[Any], schema: Any, rows: int) -> Iterator[Any]:
    """Cut the rows of tables into tables of so many rows."""
    waiting = schema.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table])
        # Nothing is held but what waits.
        del table
        while waiting.num_rows >= rows:
            part, waiting = [waiting.slice(0, rows)], waiting.slice(rows)
            yield _joined(part, schema)
    if waiting.num_rows:
        yield _joined([waiting], schema)
