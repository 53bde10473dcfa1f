"""Divides a task's items into bins by a keyed hash: reads the items once, counts them, and returns them bin by bin.

Items are kept in ascending order of their hashes. The top bits of the hash are the number of the bin, so a bin is a
range of this order, and so is a partition on disk. Items count as equal if all 128 bits of their hashes are equal. The
order is not secret, because the peer knows the key. The points of each bin are sent in another order, which is secret.

Rows stay in memory until they exceed their budget. Then all rows are written to disk, into a fixed number of
partitions, and from then on only one partition or one bin is in memory at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli.core.errors import TooManyRowsError
from psicli.items import compute as pc
from psicli.items import records
from psicli.items.encoding import packed
from psicli.items.hashing import Hashes, bin_of, cumulated, keyed_hashes, sorted_distinct
from psicli.items.records import Mask
from psicli.storage.spool import Spool, SpoolFile

_BYTES = pa.large_binary()
_Visit = Callable[[pa.LargeBinaryArray], None]
_Numbers = npt.NDArray[np.int64]
# Row numbers have 32 bits.
MAX_ROWS = 1 << 32
# The memory that a row takes in addition to its item while psicli finds equal items [bytes]; the tests measure it.
ROW_BYTES = 96
# The largest number of bins, as bits: the top bits of a hash that determine its bin.
FINEST_BITS = 16
# With 256 partitions, a partition is much smaller than a bin for any input that can be read in a day.
_PARTITION_BITS = 8
_PARTITIONS = 1 << _PARTITION_BITS
# A partition is read from disk in pieces of about this many entries. No run is divided between pieces, so the size of
# runs is limited: pieces then stay small even if all rows are in one partition.
_PIECE = 1 << 17
_RUN_ROWS = 1 << 18
# The entry of a row in a partition on disk: the hash of its item, its row number, and the length of the item.
_ENTRY = np.dtype([("hash", "<u8", (2,)), ("row", "<u4"), ("length", "<u4")])


def disk_bytes(rows: int, size: int, budget: int) -> int:
    """Return about how much disk space rows take, given the total size of their items and the memory budget [bytes]."""
    return _ENTRY.itemsize * rows + size if memory_bytes(rows, size) > budget else 0


def memory_bytes(rows: int, size: int) -> int:
    """Return how much memory rows take while they are read, given the total size of their items [bytes]."""
    return ROW_BYTES * rows + 2 * size


class Matches:
    """The distinct items of a task that matched, as one bit per item; each bin adds its result. Any thread may use it.

    starts: the start of each bin in the order of all items, and the end of the last bin.
    """

    def __init__(self, starts: Sequence[int]) -> None:
        self._starts = starts
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}
        self._counts: dict[int, int] = {}

    def put(self, number: int, found: Mask) -> None:
        """Store a bin's result: a boolean for each of its items."""
        self._bits[number] = np.packbits(found)
        self._counts[number] = int(found.sum())

    def size(self, number: int) -> int:
        """Return the number of items in a bin."""
        return self._starts[number + 1] - self._starts[number]

    @property
    def items(self) -> int:
        """The number of items in the task."""
        return self._starts[-1]

    @property
    def count(self) -> int:
        """The number of items that matched."""
        return sum(self._counts.values())

    def between(self, start: int, stop: int) -> Mask:
        """Return the booleans of the items [start, stop); they are false in bins without a result."""
        found = np.zeros(stop - start, np.bool_)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop))
        for number in range(first, last):
            if number in self._bits:
                begins, ends = self._starts[number], self._starts[number + 1]
                low, high = max(begins, start), min(ends, stop)
                bits = np.unpackbits(self._bits[number], count=ends - begins)
                found[low - start : high - start] = bits[low - begins : high - begins]
        return found


class BinItems:
    """The distinct items of one bin, in the order of their hashes.

    places: where each item is, in memory or on disk; fetch: reads the items at given places.
    """

    def __init__(self, places: npt.NDArray[Any], fetch: Callable[[npt.NDArray[Any]], pa.LargeBinaryArray]) -> None:
        self._places, self._fetch = places, fetch

    def __len__(self) -> int:
        return len(self._places)

    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        """Return the items at these positions of the bin's order."""
        return self._fetch(self._places[places])


class Items(ABC):
    """The items of a task whose rows have all been read. Any thread may use them."""

    rows: int
    null_keys: int
    # The number of distinct items before each of the 2^16 finest bins, and their total.
    _finest: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of distinct items."""
        return int(self._finest[-1])

    def starts(self, bins: int) -> list[int]:
        """Return the start of each of `bins` bins in the order of all items, and the end of the last bin."""
        return [int(start) for start in self._finest[:: (1 << FINEST_BITS) // max(bins, 1)]]

    @abstractmethod
    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        """Return bin `number` of `bins` bins; its items stay on disk if they take more than `budget` [bytes]."""

    def row_mask(self, matches: Matches) -> pa.BooleanArray:
        """Return for each row of the input, in file order, whether its item matched."""
        bits = np.zeros(-(-self.rows // 8), np.uint8)
        for rows in self._matched_rows(matches):
            np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
        return pa.Array.from_buffers(pa.bool_(), self.rows, [None, pa.py_buffer(bits)])

    @abstractmethod
    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        """Yield the numbers of the rows whose items matched, in batches."""

    @abstractmethod
    def close(self) -> None:
        """Release the items, in memory or on disk."""


class Partitioner:
    """Collects the rows of an input and divides them into partitions.

    key: the key of the hash (32 bytes); budget: the memory that rows may take [bytes], or None for no limit; visit:
    called by `finish` with the distinct items, in batches of any order.
    """

    def __init__(
        self, key: bytes, spool: Spool | None = None, budget: int | None = None, visit: _Visit | None = None
    ) -> None:
        self._key = key
        self._visit = visit
        self._spool = spool
        self._budget = budget
        self._expected = 0
        self._rows = self._null_keys = 0
        self._held: list[_Rows] = []
        self._cost = 0
        self._disk: _OnDisk | None = None

    def expect(self, rows: int) -> None:
        """Set an estimate of the number of rows [rows]; if it is too high, more disk space is reserved than needed."""
        self._expected = rows

    def add(self, items: pa.LargeBinaryArray) -> None:
        """Add the next rows of the input as items; an item is null if its row has a null key.

        Raises TooManyRowsError, SpoolSpaceError, StorageError.
        """
        first, self._rows = self._rows, self._rows + len(items)
        if self._rows > MAX_ROWS:
            raise TooManyRowsError(limit=MAX_ROWS)
        numbers = np.arange(first, self._rows, dtype=np.uint32)
        if items.null_count:
            self._null_keys += items.null_count
            numbers = numbers[pc.is_valid(items).to_numpy(zero_copy_only=False)]
            items = pc.drop_null(items)
        self._held.append(_Rows(keyed_hashes(items, self._key), numbers, items))
        self._cost += memory_bytes(len(items), _bytes_in(items))
        if self._budget is not None and self._cost > self._budget:
            self._spill()

    def finish(self) -> Items:
        """Count the distinct items and return them; the partitioner must not be used afterwards."""
        if self._disk is None:
            # Release the separate parts before the sort, to save memory.
            rows, self._held = _joined(self._held), []
            found: Items = _InMemory(rows, self._visit)
        else:
            self._spill()
            self._disk.count(self._visit)
            found, self._disk = self._disk, None
        found.rows, found.null_keys = self._rows, self._null_keys
        return found

    def close(self) -> None:
        """Free the rows of an input that could not be read to its end; after `finish`, this does nothing."""
        self._held = []
        if self._disk is not None:
            self._disk.close()

    def _spill(self) -> None:
        """Write the rows in memory to disk, as runs."""
        if not self._held:
            return
        rows = _joined(self._held)
        self._held, self._cost = [], 0
        if self._disk is None:
            assert self._spool is not None
            expected = max(self._expected, self._rows)
            size = (_ENTRY.itemsize + _bytes_in(rows.items) // len(rows.items)) * expected
            self._disk = _OnDisk(self._spool.file("items", size))
        for start in range(0, len(rows.numbers), _RUN_ROWS):
            part = slice(start, start + _RUN_ROWS)
            self._disk.append(_Rows(rows.hashes[part], rows.numbers[part], rows.items[part]))


class _Rows:
    """Rows in the order of the input: the hashes of their items, the row numbers, and the items."""

    def __init__(self, hashes: Hashes, numbers: npt.NDArray[np.uint32], items: pa.LargeBinaryArray) -> None:
        self.hashes, self.numbers, self.items = hashes, numbers, items


def _joined(parts: list[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    hashes = np.concatenate([np.empty((0, 2), np.uint64), *(part.hashes for part in parts)])
    numbers = np.concatenate([np.empty(0, np.uint32), *(part.numbers for part in parts)])
    return _Rows(hashes, numbers, pa.concat_arrays([pa.array([], _BYTES), *(part.items for part in parts)]))


class _InMemory(Items):
    """Items whose rows are all in memory.

    _places: the index in `_items` of each distinct item; _codes: for each row with a key, the position of its item in
    the order.
    """

    def __init__(self, rows: _Rows, visit: _Visit | None) -> None:
        self._items, self._numbers = rows.items, rows.numbers
        self._places, self._codes, hashes = sorted_distinct(rows.hashes)
        if visit is not None:
            for start in range(0, len(self._places), _PIECE):
                # Without duplicates, nothing needs to be copied.
                all_distinct = len(self._places) == len(self._items)
                piece = slice(start, start + _PIECE)
                visit(self._items[piece] if all_distinct else _take(self._items, np.sort(self._places[piece])))
        self._finest = cumulated(np.bincount(bin_of(hashes, FINEST_BITS), minlength=1 << FINEST_BITS))

    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        start, stop = self.starts(bins)[number : number + 2]
        return BinItems(self._places[start:stop], partial(_take, self._items))

    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        yield self._numbers[matches.between(0, len(self))[self._codes]]

    def close(self) -> None:
        self._items = pa.array([], _BYTES)
        self._places = self._codes = self._numbers = np.empty(0, np.uint32)


class _Run(NamedTuple):
    """Rows that were written together: where each partition's entries and items start, and where the last ones end."""

    entries: _Numbers
    items: _Numbers


class _OnDisk(Items):
    """Items whose rows are in a file, as runs: first a run's entries, then its items, both ordered by partition."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._runs: list[_Run] = []

    def append(self, rows: _Rows) -> None:
        """Write rows as one run."""
        partitions = bin_of(rows.hashes, _PARTITION_BITS).astype(np.uint8)
        # A stable sort keeps the rows of a partition in the order of the input.
        order = np.argsort(partitions, kind="stable")
        offsets, data = packed(_take(rows.items, order))
        entries = np.empty(len(order), _ENTRY)
        entries["hash"] = rows.hashes.take(order, axis=0)
        entries["row"] = rows.numbers[order]
        entries["length"] = np.diff(offsets)
        starts = cumulated(np.bincount(partitions, minlength=_PARTITIONS))
        entries_at, items_at = self._file.append(entries.view(np.uint8)), self._file.append(data)
        self._runs.append(_Run(entries_at + starts * _ENTRY.itemsize, items_at + offsets[starts]))

    def count(self, visit: _Visit | None) -> None:
        """Count the distinct items of each of the finest bins, and visit them."""
        counts = np.zeros(1 << FINEST_BITS, np.int64)
        for partition in range(_PARTITIONS):
            found = _Distinct()
            for entries, places in self._pieces(partition):
                fresh = found.add(entries["hash"])
                if visit is not None:
                    visit(_take(_items_at(self._file, places), np.sort(fresh)))
            counts += np.bincount(bin_of(found.hashes, FINEST_BITS), minlength=len(counts))
        self._finest = cumulated(counts)

    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        bits = bins.bit_length() - 1
        # A partition contains one or more bins, or a bin contains several partitions.
        finer, coarser = max(bits - _PARTITION_BITS, 0), max(_PARTITION_BITS - bits, 0)
        first = number >> finer << coarser
        last = first + (1 << coarser)
        fetched = sum(int(run.items[last] - run.items[first]) for run in self._runs) >> finer <= budget
        hashes, items, where = [np.empty((0, 2), np.uint64)], [pa.array([], _BYTES)], [np.empty((0, 2), np.int64)]
        for partition in range(first, last):
            found = _Distinct()
            for entries, places in self._pieces(partition):
                mine = np.flatnonzero(bin_of(entries["hash"], bits) == number)
                fresh = mine[found.add(entries["hash"][mine])]
                hashes.append(entries["hash"][fresh])
                if fetched:
                    items.append(_take(_items_at(self._file, places), fresh))
                else:
                    where.append(places[fresh])
        order, _, _ = sorted_distinct(np.concatenate(hashes))
        if fetched:
            return BinItems(order, partial(_take, pa.concat_arrays(items)))
        return BinItems(np.concatenate(where)[order], partial(_items_at, self._file))

    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        for partition, (start, stop) in enumerate(pairwise(self.starts(_PARTITIONS))):
            matched = matches.between(start, stop)
            if matched.any():
                hashes = self._hashes(partition)
                for entries, _ in self._pieces(partition):
                    _, codes, _ = sorted_distinct(np.concatenate([hashes, entries["hash"]]))
                    yield entries["row"][matched[codes[len(hashes) :]]]

    def _hashes(self, partition: int) -> Hashes:
        """Return the distinct hashes of a partition in ascending order."""
        found = _Distinct()
        for entries, _ in self._pieces(partition):
            found.add(entries["hash"])
        return found.hashes

    def close(self) -> None:
        self._file.close()

    def _pieces(self, partition: int) -> Iterator[tuple[Any, _Numbers]]:
        """Yield the entries of a partition in pieces, each with the start and end of its entries' items in the file."""
        spans = np.array([run.entries[partition : partition + 2] for run in self._runs])
        items = np.array([run.items[partition] for run in self._runs])
        sizes = spans[:, 1] - spans[:, 0]
        ends = np.flatnonzero(np.diff(np.cumsum(sizes) // (_PIECE * _ENTRY.itemsize))) + 1
        for first, last in pairwise([0, *ends.tolist(), len(spans)]):
            at, data = _read(self._file, spans[first:last])
            entries = data.view(_ENTRY)
            # Compute the places as if the items of all runs were adjacent, then move those of each run to its place.
            offsets = cumulated(entries["length"])
            rows = at // _ENTRY.itemsize
            places = np.stack([offsets[:-1], offsets[1:]], axis=1)
            places += np.repeat(items[first:last] - offsets[rows[:-1]], np.diff(rows))[:, np.newaxis]
            yield entries, places


def _read(file: SpoolFile, spans: _Numbers) -> tuple[_Numbers, npt.NDArray[np.uint8]]:
    """Read spans of a file, given by their starts and ends; return each span's offset in the data, and the data."""
    begins, ends = spans[:, 0], spans[:, 1]
    offsets = cumulated(ends - begins)
    data = np.empty(offsets[-1], np.uint8)
    # Read adjacent spans in one call.
    firsts = np.flatnonzero(np.append(-1, ends[:-1]) != begins)
    view, bounds = data.data, [*offsets[firsts].tolist(), len(data)]
    for begin, (start, stop) in zip(begins[firsts].tolist(), pairwise(bounds), strict=True):
        file.read_at(begin, view[start:stop])
    return offsets, data


def _items_at(file: SpoolFile, spans: _Numbers) -> pa.LargeBinaryArray:
    """Read the items that are in these spans of a file."""
    offsets, data = _read(file, spans)
    return pa.Array.from_buffers(_BYTES, len(spans), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


class _Distinct:
    """The distinct hashes of several pieces, in ascending order."""

    def __init__(self) -> None:
        self.hashes: Hashes = np.empty((0, 2), np.uint64)

    def add(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Add the hashes of a piece; return the positions in the piece of those that are new, one for each."""
        before = len(self.hashes)
        order, _, self.hashes = sorted_distinct(np.concatenate([self.hashes, hashes]))
        fresh: npt.NDArray[np.int64] = order[order >= before].astype(np.int64) - before
        return fresh


def _take(items: pa.LargeBinaryArray, places: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    """Return the items at some places; no item is null."""
    if records.native is None or not len(items) or items.null_count or len(items) > MAX_ROWS:
        return pc.take(items, pc.from_numpy(places))
    # The kernel in C takes a third of the time.
    offsets, data = records.native.take(
        items.buffers()[1].slice(8 * items.offset, 8 * len(items) + 8),
        items.buffers()[2] or b"",
        np.ascontiguousarray(places, np.uint32),
    )
    return pa.Array.from_buffers(_BYTES, len(places), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _bytes_in(items: pa.LargeBinaryArray) -> int:
    """Return the total size of the items [bytes]."""
    if not len(items):
        return 0
    offsets = np.frombuffer(items.buffers()[1], np.int64)
    return int(offsets[items.offset + len(items)] - offsets[items.offset])
