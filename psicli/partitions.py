"""A task's items, cut by a keyed hash: read once, counted, and handed out bin by bin.

Everything is in the ascending order of the items' hashes, so that a bin, whose number is the top bits of the hash, is a
stretch of it, and a partition on disk is one too. Equal hashes are equal items: all 128 bits are compared. The order is
no secret, since the peer knows the key; what leaves is put in a secret order bin by bin.

In memory the rows are kept until they take more than their budget. Then all of them go to disk, into a fixed number of
partitions; from there on one partition, or one bin, is in memory at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve
from psicli.errors import InternalError, TooManyRowsError
from psicli.items import packed
from psicli.records import Mask, stable_order
from psicli.spool import Spool, Streams

_BYTES = pa.large_binary()
_Hashes = npt.NDArray[np.uint64]
# Rows are numbered in 32 bits.
MAX_ROWS = 1 << 32
# What a row takes while equal items are brought together, beside its item [bytes]; the tests measure it.
ROW_BYTES = 96
# The finest bins there can be: the top bits of a hash that tell them.
_FINEST_BITS = 16
# A partition is well below a bin for any input that is read in a day, and 2 x 256 streams are not too many.
_PARTITION_BITS = 8
_PARTITIONS = 1 << _PARTITION_BITS
# Entries that are read from disk at once.
_PIECE = 1 << 17
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
        for number in range(max(first, 0), len(self._starts) - 1):
            begins, ends = self._starts[number], self._starts[number + 1]
            if begins >= stop:
                break
            if number in self._bits:
                low, high = max(begins, start), min(ends, stop)
                bits = np.unpackbits(self._bits[number], count=ends - begins)
                found[low - start : high - start] = bits[low - begins : high - begins]
        return found


class BinItems(ABC):
    """The distinct items of one bin, in the order of their hashes."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        """Return the items at these places."""


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

    @abstractmethod
    def row_mask(self, matches: Matches) -> pa.BooleanArray:
        """Return for each row of the input, in its order, whether its item matched."""

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
            if self._spool is None:
                raise InternalError(detail="items for the disk without a spool")
            expected = max(self._expected, self._rows)
            size = (_ENTRY.itemsize + _bytes_in(rows.items) // len(rows.items)) * expected
            self._disk = _OnDisk(Streams(self._spool, "items", 2 * _PARTITIONS, size))
        self._disk.append(rows)


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
        return _Held(self._items, self._places[start:stop])

    def row_mask(self, matches: Matches) -> pa.BooleanArray:
        bits = _RowBits(self.rows)
        bits.mark(self._numbers[matches.between(0, len(self))[self._codes]])
        return bits.finish()

    def close(self) -> None:
        self._items = pa.array([], _BYTES)
        self._places = self._codes = self._numbers = np.empty(0, np.uint32)


class _OnDisk(Items):
    """Partitions: a stream of entries and a stream of items each."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def append(self, rows: _Rows) -> None:
        partitions = _bin_of(rows.hashes, _PARTITION_BITS).astype(np.uint8)
        # Stable, so that a partition has its rows in the order of the input.
        order = np.argsort(partitions, kind="stable")
        offsets, data = packed(rows.items.take(pa.array(order)))
        entries = np.empty(len(order), _ENTRY)
        entries["hash"] = rows.hashes.take(order, axis=0)
        entries["row"] = rows.numbers[order]
        entries["length"] = np.diff(offsets)
        ends = _cumulated(np.bincount(partitions, minlength=_PARTITIONS))
        for partition, (start, stop) in enumerate(pairwise(ends.tolist())):
            if start < stop:
                self._streams.append(2 * partition, entries[start:stop].view(np.uint8))
                self._streams.append(2 * partition + 1, data[offsets[start] : offsets[stop]])

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
        partitions = range(first, first + (1 << coarser))
        size = sum(self._streams.size(2 * partition + 1) for partition in partitions) >> finer
        collected = _Collected(self._streams, fetched=size <= budget)
        for partition in partitions:
            found = _Distinct()
            for entries, offsets in self._pieces(partition):
                mine = np.flatnonzero(_bin_of(entries["hash"], bits) == number)
                fresh = mine[found.add(entries["hash"][mine])]
                collected.add(2 * partition + 1, entries["hash"][fresh], offsets, fresh)
        return collected.finish()

    def row_mask(self, matches: Matches) -> pa.BooleanArray:
        bits = _RowBits(self.rows)
        for partition, (start, stop) in enumerate(pairwise(self.starts(_PARTITIONS))):
            matched = matches.between(start, stop)
            if matched.any():
                hashes = self._hashes(partition)
                for entries, _ in self._pieces(partition):
                    _, codes, _ = _brought_together(np.concatenate([hashes, entries["hash"]]))
                    bits.mark(entries["row"][matched[codes[len(hashes) :]]])
        return bits.finish()

    def _hashes(self, partition: int) -> _Hashes:
        """Return the distinct hashes of a partition, in order."""
        found = _Distinct()
        for entries, _ in self._pieces(partition):
            found.add(entries["hash"])
        return found.hashes

    def close(self) -> None:
        self._streams.close()

    def _pieces(self, partition: int) -> Iterator[tuple[Any, npt.NDArray[np.int64]]]:
        """Give the entries of a partition, some at a time, and where their items begin and end in its other stream."""
        begins = 0
        step = _PIECE * _ENTRY.itemsize
        for start in range(0, self._streams.size(2 * partition), step):
            entries = self._streams.read(2 * partition, start, start + step).view(_ENTRY)
            offsets = begins + _cumulated(entries["length"])
            begins = int(offsets[-1])
            yield entries, offsets


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


class _Collected:
    """The distinct items of a bin as they are found: read into memory, or left where they are."""

    def __init__(self, streams: Streams, *, fetched: bool) -> None:
        self._streams = streams
        self._fetched = fetched
        self._hashes: list[_Hashes] = [np.empty((0, 2), np.uint64)]
        self._items = [pa.array([], _BYTES)]
        self._where: list[npt.NDArray[np.int64]] = [np.empty((0, 3), np.int64)]

    def add(self, stream: int, hashes: _Hashes, offsets: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> None:
        """Take those items of a stream, cut at these offsets, that stand at these places."""
        self._hashes.append(hashes)
        if self._fetched:
            data = self._streams.read(stream, int(offsets[0]), int(offsets[-1]))
            buffers = [None, pa.py_buffer(offsets - offsets[0]), pa.py_buffer(data)]
            self._items.append(pa.Array.from_buffers(_BYTES, len(offsets) - 1, buffers).take(pa.array(places)))
        else:
            streams = np.full(len(places), stream)
            self._where.append(np.stack([streams, offsets[places], offsets[places + 1]], axis=1))

    def finish(self) -> BinItems:
        order, _, _ = _brought_together(np.concatenate(self._hashes))
        if self._fetched:
            return _Held(pa.concat_arrays(self._items), order)
        return _Stored(self._streams, np.concatenate(self._where)[order])


class _Held(BinItems):
    """Items in memory, and where the distinct ones stand among them."""

    def __init__(self, items: pa.LargeBinaryArray, places: npt.NDArray[np.uint32]) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        return self._items.take(pa.array(self._places[places]))


class _Stored(BinItems):
    """Items on disk: of each its stream, and where it begins and ends there."""

    def __init__(self, streams: Streams, where: npt.NDArray[np.int64]) -> None:
        self._streams, self._where = streams, where

    def __len__(self) -> int:
        return len(self._where)

    def take(self, places: npt.NDArray[np.uint32]) -> pa.LargeBinaryArray:
        return curve.packed_items([self._streams.read(*where).tobytes() for where in self._where[places].tolist()])


class _RowBits:
    """A bit for each row of the input."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._bits = np.zeros(-(-rows // 8), np.uint8)

    def mark(self, rows: npt.NDArray[np.uint32]) -> None:
        """Set the bits of these rows."""
        np.bitwise_or.at(self._bits, rows >> 3, np.left_shift(1, rows & 7).astype(np.uint8))

    def finish(self) -> pa.BooleanArray:
        return pa.Array.from_buffers(pa.bool_(), self._rows, [None, pa.py_buffer(self._bits)])


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
