"""A task's items, cut by a keyed hash: read once, counted, and handed out bin by bin.

Everything is in the ascending order of the items' hashes, so that a bin, whose number is the top bits of the hash, is a
stretch of it, and a partition on disk is one too. Equal hashes are equal items: all 128 bits are compared. The order is
no secret, since the peer knows the key; what leaves is put in a secret order bin by bin.

In memory the rows are kept until they take more than their budget. Then all of them go to disk, into a fixed number of
partitions; from there on one partition, or one bin, is in memory at a time.
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

from psicli import curve
from psicli.core.errors import TooManyRowsError
from psicli.items.encoding import packed
from psicli.items.records import Mask, stable_order
from psicli.storage.spool import Spool, SpoolFile

_BYTES = pa.large_binary()
_Hashes = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.int64]
# Rows are numbered in 32 bits.
MAX_ROWS = 1 << 32
# What a row takes while equal items are brought together, beside its item [bytes]; the tests measure it.
ROW_BYTES = 96
# The finest bins there can be: the top bits of a hash that tell them.
_FINEST_BITS = 16
# A partition is well below a bin for any input that is read in a day.
_PARTITION_BITS = 8
_PARTITIONS = 1 << _PARTITION_BITS
# Entries of a partition that are read from disk at once, about. What lies together is read together: so that this is
# not much more, even where all rows are in one partition, so many rows at most are put there together.
_PIECE = 1 << 17
_RUN_ROWS = 1 << 18
# What a partition on disk says of a row: the hash of its item, its number, and how long the item is.
_ENTRY = np.dtype([("hash", "<u8", (2,)), ("row", "<u4"), ("length", "<u4")])


def disk_bytes(rows: int, size: int, budget: int) -> int:
    """Return about what the partitions of rows with items of this size in all take on disk within a budget [bytes]."""
    return _ENTRY.itemsize * rows + size if _cost(rows, size) > budget else 0


def _cost(rows: int, size: int) -> int:
    return ROW_BYTES * rows + 2 * size


class Matches:
    """Which distinct items of a task matched: a bit an item, bin by bin as their results come in. For any thread.

    starts: where each bin begins in the order of all items, and where the last one ends.
    """

    def __init__(self, starts: Sequence[int]) -> None:
        self._starts = starts
        self._bits: dict[int, npt.NDArray[np.uint8]] = {}
        self._counts: dict[int, int] = {}

    def put(self, number: int, found: Mask) -> None:
        """Take a bin's result: a boolean for each of its items."""
        self._bits[number] = np.packbits(found)
        self._counts[number] = int(found.sum())

    def size(self, number: int) -> int:
        """Return how many items a bin has."""
        return self._starts[number + 1] - self._starts[number]

    @property
    def items(self) -> int:
        """How many items the task has."""
        return self._starts[-1]

    @property
    def count(self) -> int:
        """How many of them matched."""
        return sum(self._counts.values())

    def between(self, start: int, stop: int) -> Mask:
        """Return the booleans of items [start, stop); those of bins without a result are false."""
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

    places: where each of them is, in memory or on disk; fetch: brings the items that are at some of these places.
    """

    def __init__(self, places: npt.NDArray[Any], fetch: Callable[[npt.NDArray[Any]], pa.LargeBinaryArray]) -> None:
        self._places, self._fetch = places, fetch

    def __len__(self) -> int:
        return len(self._places)

    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        """Return the items at these places of the order."""
        return self._fetch(self._places[places])


class Items(ABC):
    """A task's items once all rows are read. For any thread."""

    rows: int
    null_keys: int
    # How many distinct items come before each of the finest bins, and how many there are.
    _finest: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return how many distinct items there are."""
        return int(self._finest[-1])

    def starts(self, bins: int) -> list[int]:
        """Return where each of so many bins begins in the order of all items, and where the last one ends."""
        return [int(start) for start in self._finest[:: (1 << _FINEST_BITS) // max(bins, 1)]]

    @abstractmethod
    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        """Return one of so many bins; its items stay on disk if they take more than the budget [bytes]."""

    def row_mask(self, matches: Matches) -> pa.BooleanArray:
        """Return for each row of the input, in its order, whether its item matched."""
        bits = np.zeros(-(-self.rows // 8), np.uint8)
        for rows in self._matched_rows(matches):
            np.bitwise_or.at(bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))
        return pa.Array.from_buffers(pa.bool_(), self.rows, [None, pa.py_buffer(bits)])

    @abstractmethod
    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        """Give the numbers of the rows whose items matched, some at a time."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the items, in memory or on disk."""


class Partitioner:
    """Takes the rows of an input and cuts them into partitions.

    key: of the hash, 32 bytes. budget: what rows may take in memory [bytes]; None for all they need.
    """

    def __init__(self, key: bytes, spool: Spool | None = None, budget: int | None = None) -> None:
        self._key = key
        self._spool = spool
        self._budget = budget
        self._expected = 0
        self._rows = self._null_keys = 0
        self._held: list[_Rows] = []
        self._cost = 0
        self._disk: _OnDisk | None = None

    def expect(self, rows: int) -> None:
        """Take a better guess how many rows there will be [rows]; a low one grows, a high one reserves more disk."""
        self._expected = rows

    def add(self, items: pa.LargeBinaryArray) -> None:
        """Take the next rows of the input, as items; null is a row without a key.

        Raises TooManyRowsError, SpoolSpaceError, StorageError.
        """
        first, self._rows = self._rows, self._rows + len(items)
        if self._rows > MAX_ROWS:
            raise TooManyRowsError(limit=MAX_ROWS)
        numbers = np.arange(first, self._rows, dtype=np.uint32)
        if items.null_count:
            self._null_keys += items.null_count
            numbers = numbers[items.is_valid().to_numpy(zero_copy_only=False)]
            items = items.drop_null()
        self._held.append(_Rows(_hashes(items, self._key), numbers, items))
        self._cost += _cost(len(items), _bytes_in(items))
        if self._budget is not None and self._cost > self._budget:
            self._put_away()

    def finish(self) -> Items:
        """Count the distinct items and return them; the partitioner is used up."""
        if self._disk is None:
            # What the rows were joined from goes before they are sorted.
            rows, self._held = _joined(self._held), []
            found: Items = _InMemory(rows)
        else:
            self._put_away()
            self._disk.count()
            found, self._disk = self._disk, None
        found.rows, found.null_keys = self._rows, self._null_keys
        return found

    def _put_away(self) -> None:
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
    """Rows in the order of the input: the hashes of their items, their numbers, their items."""

    def __init__(self, hashes: _Hashes, numbers: npt.NDArray[np.uint32], items: pa.LargeBinaryArray) -> None:
        self.hashes, self.numbers, self.items = hashes, numbers, items


def _joined(parts: list[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    hashes = np.concatenate([np.empty((0, 2), np.uint64), *(part.hashes for part in parts)])
    numbers = np.concatenate([np.empty(0, np.uint32), *(part.numbers for part in parts)])
    return _Rows(hashes, numbers, pa.concat_arrays([pa.array([], _BYTES), *(part.items for part in parts)]))


class _InMemory(Items):
    """All rows at once.

    places: of each distinct item, where one of it stands in `items`; codes: of each row with a key, the place of its
    item in the order.
    """

    def __init__(self, rows: _Rows) -> None:
        self._items, self._numbers = rows.items, rows.numbers
        self._places, self._codes, hashes = _brought_together(rows.hashes)
        self._finest = _cumulated(np.bincount(_bin_of(hashes, _FINEST_BITS), minlength=1 << _FINEST_BITS))

    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        start, stop = self.starts(bins)[number : number + 2]
        return BinItems(self._places[start:stop], partial(_taken, self._items))

    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        yield self._numbers[matches.between(0, len(self))[self._codes]]

    def close(self) -> None:
        self._items = pa.array([], _BYTES)
        self._places = self._codes = self._numbers = np.empty(0, np.uint32)


class _Run(NamedTuple):
    """Rows that were put away together: where the entries and the items of each partition begin, and the last end."""

    entries: _Numbers
    items: _Numbers


class _OnDisk(Items):
    """Runs in a file, their entries and then their items, both in the order of the partitions."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._runs: list[_Run] = []

    def append(self, rows: _Rows) -> None:
        partitions = _bin_of(rows.hashes, _PARTITION_BITS).astype(np.uint8)
        # Stable, so that a partition has its rows in the order of the input.
        order = np.argsort(partitions, kind="stable")
        offsets, data = packed(rows.items.take(pa.array(order)))
        entries = np.empty(len(order), _ENTRY)
        entries["hash"] = rows.hashes.take(order, axis=0)
        entries["row"] = rows.numbers[order]
        entries["length"] = np.diff(offsets)
        starts = _cumulated(np.bincount(partitions, minlength=_PARTITIONS))
        entries_at, items_at = self._file.append(entries.view(np.uint8)), self._file.append(data)
        self._runs.append(_Run(entries_at + starts * _ENTRY.itemsize, items_at + offsets[starts]))

    def count(self) -> None:
        counts = np.zeros(1 << _FINEST_BITS, np.int64)
        for partition in range(_PARTITIONS):
            counts += np.bincount(_bin_of(self._hashes(partition), _FINEST_BITS), minlength=len(counts))
        self._finest = _cumulated(counts)

    def bin(self, number: int, bins: int, budget: int) -> BinItems:
        bits = bins.bit_length() - 1
        # A partition holds several bins, or a bin several partitions.
        finer, coarser = max(bits - _PARTITION_BITS, 0), max(_PARTITION_BITS - bits, 0)
        first = number >> finer << coarser
        last = first + (1 << coarser)
        fetched = sum(int(run.items[last] - run.items[first]) for run in self._runs) >> finer <= budget
        hashes, items, where = [np.empty((0, 2), np.uint64)], [pa.array([], _BYTES)], [np.empty((0, 2), np.int64)]
        for partition in range(first, last):
            found = _Distinct()
            for entries, places in self._pieces(partition):
                mine = np.flatnonzero(_bin_of(entries["hash"], bits) == number)
                fresh = mine[found.add(entries["hash"][mine])]
                hashes.append(entries["hash"][fresh])
                if fetched:
                    items.append(_taken(_items_at(self._file, places), fresh))
                else:
                    where.append(places[fresh])
        order, _, _ = _brought_together(np.concatenate(hashes))
        if fetched:
            return BinItems(order, partial(_taken, pa.concat_arrays(items)))
        return BinItems(np.concatenate(where)[order], partial(_items_at, self._file))

    def _matched_rows(self, matches: Matches) -> Iterator[npt.NDArray[np.uint32]]:
        for partition, (start, stop) in enumerate(pairwise(self.starts(_PARTITIONS))):
            matched = matches.between(start, stop)
            if matched.any():
                hashes = self._hashes(partition)
                for entries, _ in self._pieces(partition):
                    _, codes, _ = _brought_together(np.concatenate([hashes, entries["hash"]]))
                    yield entries["row"][matched[codes[len(hashes) :]]]

    def _hashes(self, partition: int) -> _Hashes:
        """Return the distinct hashes of a partition, in order."""
        found = _Distinct()
        for entries, _ in self._pieces(partition):
            found.add(entries["hash"])
        return found.hashes

    def close(self) -> None:
        self._file.close()

    def _pieces(self, partition: int) -> Iterator[tuple[Any, _Numbers]]:
        """Give the entries of a partition, some at a time, and where the item of each begins and ends in the file."""
        spans = np.array([run.entries[partition : partition + 2] for run in self._runs])
        items = np.array([run.items[partition] for run in self._runs])
        sizes = spans[:, 1] - spans[:, 0]
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // (_PIECE * _ENTRY.itemsize))) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(spans)]):
            at, data = _read(self._file, spans[first:last])
            entries = data.view(_ENTRY)
            # As if the items of all runs followed on each other; and by how much those of each run are elsewhere.
            offsets = _cumulated(entries["length"])
            rows = at // _ENTRY.itemsize
            places = np.stack([offsets[:-1], offsets[1:]], axis=1)
            places += np.repeat(items[first:last] - offsets[rows[:-1]], np.diff(rows))[:, np.newaxis]
            yield entries, places


def _read(file: SpoolFile, spans: _Numbers) -> tuple[_Numbers, npt.NDArray[np.uint8]]:
    """Read the spans of a file, each from a place to another; return where each begins in what was read, and that."""
    begins, ends = spans[:, 0], spans[:, 1]
    offsets = _cumulated(ends - begins)
    data = np.empty(offsets[-1], np.uint8)
    # Those that lie side by side are read at once.
    firsts = np.flatnonzero(np.append(-1, ends[:-1]) != begins)
    view, cuts = data.data, [*offsets[firsts].tolist(), len(data)]
    for begin, (start, stop) in zip(begins[firsts].tolist(), pairwise(cuts), strict=True):
        file.read_at(begin, view[start:stop])
    return offsets, data


def _items_at(file: SpoolFile, spans: _Numbers) -> pa.LargeBinaryArray:
    """Return the items that are these spans of a file."""
    offsets, data = _read(file, spans)
    return pa.Array.from_buffers(_BYTES, len(spans), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


class _Distinct:
    """Distinct hashes, in order, that come in several pieces."""

    def __init__(self) -> None:
        self.hashes: _Hashes = np.empty((0, 2), np.uint64)

    def add(self, hashes: _Hashes) -> npt.NDArray[np.int64]:
        """Take more of them; return where those stand that were not there before, one of each."""
        before = len(self.hashes)
        order, _, self.hashes = _brought_together(np.concatenate([self.hashes, hashes]))
        fresh: npt.NDArray[np.int64] = order[order >= before].astype(np.int64) - before
        return fresh


def _taken(items: pa.LargeBinaryArray, places: npt.NDArray[Any]) -> pa.LargeBinaryArray:
    return items.take(pa.array(places))


def _hashes(items: pa.LargeBinaryArray, key: bytes) -> _Hashes:
    return np.frombuffer(curve.keyed_hashes(items, key), ">u8").reshape(-1, 2).astype(np.uint64)


def _bin_of(hashes: _Hashes, bits: int) -> npt.NDArray[np.int64]:
    """Return the top bits of each hash."""
    # A shift by all 64 bits is not defined.
    return (hashes[:, 0] >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.int64)


def _cumulated(counts: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return 0 and the sums of the first one, two, … counts."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def _bytes_in(items: pa.LargeBinaryArray) -> int:
    """Return how long the items are together [bytes]."""
    if not len(items):
        return 0
    offsets = np.frombuffer(items.buffers()[1], np.int64)
    return int(offsets[items.offset + len(items)] - offsets[items.offset])


def _brought_together(hashes: _Hashes) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], _Hashes]:
    """Return where the first of each distinct hash stands, ascending; the place of each hash in there; these hashes."""
    order = stable_order(hashes[:, 0])
    firsts = hashes[:, 0].take(order)
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = firsts[1:] != firsts[:-1]
    alike = np.flatnonzero(~is_new)
    if (hashes[order[alike], 1] != hashes[order[alike - 1], 1]).any():
        # The same first half and another second one, once in 2^64 pairs of hashes.
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        ordered = hashes.take(order, axis=0)
        is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    places = np.empty(len(hashes), np.uint32)
    places[order] = np.cumsum(is_new, dtype=np.uint32) - np.uint32(1)
    chosen = order[is_new]
    return chosen.astype(np.uint32), places, hashes.take(chosen, axis=0)
