"""Key columns -> item bytes: the rules both parties must share, down to the last byte.

Whatever changes the bytes of an item here makes old and new versions disagree without an error, as an empty
intersection. Both formats meet in canonical_text; after it nobody knows whether a key came from CSV or Parquet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from psicli import curve
from psicli.errors import (
    ControlCharacterError,
    InternalError,
    KeyTypeError,
    LongKeyError,
    MixedZonesError,
    YearRangeError,
    shown,
)
from psicli.spool import Mask, Spool, Streams

# 64 KiB: no real key comes near it, and an unclosed quote that swallows rows soon does.
MAX_KEY_BYTES = 65536
# Rows of a run are numbered in 32 bits, one number stands for none.
_MOST_ROWS = (1 << 32) - 2

_TEXT = pa.large_string()
_BYTES = pa.large_binary()
# The range of a four-digit year; Arrow shows dates beyond it in ways of its own.
_FOUR_DIGIT_YEAR = "^[0-9]{4}-"


# Text ----------------------------------------------------------------------------------------------------------


def _plain(array: Any) -> Any:
    return array.cast(_TEXT)


def _date_text(array: Any) -> Any:
    # A date64 that is not a whole day is cut down to its day.
    return array.cast(pa.date32(), safe=False).cast(_TEXT)


def _timestamp_text(array: Any) -> Any:
    """Give ISO 8601 in UTC, without trailing zeros in the fraction."""
    unit, zone = array.type.unit, array.type.tz
    # Arrow keeps zoned values in UTC and shows local time; without the zone it shows what it keeps.
    text = array.cast(pa.int64()).cast(pa.timestamp(unit)).cast(_TEXT)
    text = pc.replace_substring(text, pattern=" ", replacement="T")
    if unit != "s":
        text = pc.ascii_rtrim(pc.ascii_rtrim(text, characters="0"), characters=".")
    return _joined(text, "Z") if zone else text


def _decimal_text(array: Any) -> Any:
    """Give plain digits: no exponent, no trailing zeros in the fraction, no -0."""
    scale = array.type.scale
    if array.type.bit_width < 128:
        array = array.cast(pa.decimal128(array.type.precision, scale))
    wide = pa.decimal128(38, 0) if array.type.bit_width == 128 else pa.decimal256(76, 0)
    # The bare coefficient: Arrow writes it plainly, but a small decimal as 1E-10.
    digits = array.view(wide).cast(_TEXT)
    if scale < 0:
        return pc.if_else(pc.equal(digits, "0"), digits, _joined(digits, "0" * -scale))
    if scale == 0:
        return digits
    sign = pc.if_else(pc.starts_with(digits, "-"), _text("-"), _text(""))
    digits = pc.ascii_lpad(pc.ascii_ltrim(digits, characters="-"), width=scale + 1, padding="0")
    whole = pc.utf8_slice_codeunits(digits, start=0, stop=-scale)
    fraction = pc.ascii_rtrim(pc.utf8_slice_codeunits(digits, start=-scale), characters="0")
    point = pc.if_else(pc.equal(fraction, ""), _text(""), _text("."))
    return _joined(sign, whole, point, fraction)


_CONVERTERS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_string, _plain),
    (pa.types.is_large_string, _plain),
    (pa.types.is_string_view, _plain),
    (pa.types.is_integer, _plain),
    (pa.types.is_boolean, _plain),
    (pa.types.is_null, _plain),
    (pa.types.is_date, _date_text),
    (pa.types.is_timestamp, _timestamp_text),
    (pa.types.is_decimal, _decimal_text),
)


def has_text(kind: Any) -> bool:
    """Tell whether values of this Arrow type have one canonical text."""
    return any(test(_value_type(kind)) for test, _ in _CONVERTERS)


def text_of(array: Any) -> Any:
    """Give the canonical text of a pa.Array of a type that has_text, as pa.LargeStringArray; nulls stay null."""
    if pa.types.is_dictionary(array.type):
        return text_of(array.dictionary).take(array.indices)
    convert = next(convert for test, convert in _CONVERTERS if test(array.type))
    return convert(array)


def canonical_text(column: Any, *, path: str, name: str, first_row: int = 0) -> Any:
    """Give the canonical text of a key column (pa.Array or pa.ChunkedArray) as one pa.LargeStringArray.

    `first_row` is where the column's first row stands in its file. Raises KeyTypeError for a type that has no text,
    YearRangeError for a date that has none.
    """
    kind = _value_type(column.type)
    if not has_text(kind):
        raise KeyTypeError(path=path, column=shown(name), type=shown(str(column.type)))
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    text = pa.concat_arrays([pa.array([], _TEXT), *(text_of(chunk) for chunk in chunks)])
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        row = pc.index(pc.match_substring_regex(text, pattern=_FOUR_DIGIT_YEAR), False).as_py()
        if row >= 0:
            raise YearRangeError(place=f"{path}, row {first_row + row + 1}", column=shown(name))
    return text


def check_key_types(types: Sequence[tuple[str, Any]], *, path: str) -> None:
    """Refuse key columns, given as (name, Arrow type), without a common text.

    Raises KeyTypeError, MixedZonesError.
    """
    zones: dict[bool, list[str]] = {True: [], False: []}
    for name, kind in types:
        if not has_text(kind):
            raise KeyTypeError(path=path, column=shown(name), type=shown(str(kind)))
        if pa.types.is_timestamp(_value_type(kind)):
            zones[_value_type(kind).tz is not None].append(shown(name))
    if zones[True] and zones[False]:
        raise MixedZonesError(path=path, zoned=", ".join(zones[True]), zoneless=", ".join(zones[False]))


def check_keys(columns: Sequence[Any], names: Sequence[str], place: Callable[[int], str]) -> None:
    """Refuse control characters and over-long values; raises ControlCharacterError, LongKeyError.

    `place` tells where a row stands, for people; it is only asked about the row at fault.
    """
    for column, name in zip(columns, names, strict=True):
        row = _first_control_row(column)
        if row is not None:
            raise ControlCharacterError(place=place(row), column=shown(name))
        row = pc.index(pc.greater(pc.binary_length(column), MAX_KEY_BYTES), True).as_py()
        if row >= 0:
            raise LongKeyError(place=place(row), column=shown(name), limit=MAX_KEY_BYTES)


def _first_control_row(column: Any) -> int | None:
    # One look at the packed bytes is ten times as fast as a look at every value. No byte of a longer UTF-8
    # sequence is below 0x80, so bytes are characters here.
    offsets, data = packed(column)
    positions = np.flatnonzero((data < 0x20) | (data == 0x7F))
    if not len(positions):
        return None
    rows = np.searchsorted(offsets, positions, side="right") - 1
    # A null may have bytes in the buffer, which are nobody's value.
    valid = column.is_valid().to_numpy(zero_copy_only=False)[rows]
    return int(rows[valid][0]) if valid.any() else None


# Bytes ---------------------------------------------------------------------------------------------------------


def packed(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """View a large_string or large_binary array (or a slice of one) as offsets from 0 and the data they cut."""
    if not len(array):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    return offsets - offsets[0], data


def encode_items(columns: Sequence[Any]) -> Any:
    """Encode rows of canonical key texts as items: u8 ncols, then u32be length and bytes of every column.

    Returns pa.LargeBinaryArray; null where a column is null or empty (matchless).
    """
    pieces = [pa.scalar(bytes([len(columns)]), _BYTES)]
    matchless = None
    for column in columns:
        lengths = pc.binary_length(column).fill_null(0)
        pieces += [_length_prefixes(lengths), column.cast(_BYTES)]
        empty = pc.equal(lengths, 0)
        matchless = empty if matchless is None else pc.or_(matchless, empty)
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", _BYTES))
    return pc.if_else(matchless, pa.scalar(None, _BYTES), joined)


def _length_prefixes(lengths: Any) -> Any:
    prefixes = lengths.to_numpy(zero_copy_only=False).astype(">u4")
    offsets = np.arange(len(prefixes) + 1, dtype=np.int64) * 4
    return pa.Array.from_buffers(_BYTES, len(prefixes), [None, pa.py_buffer(offsets), pa.py_buffer(prefixes)])


# Secret order --------------------------------------------------------------------------------------------------
#
# The order is the ascending order of the items' order keys, hashes under a secret of this task and party: predictable
# generators (numpy's, random's) could be run backwards from what the peer sees of the order, and so tell it positions
# in the file. Equal order keys are equal items: all 128 bits are compared.


class ItemSorter:
    """Brings equal items together and puts the distinct ones in the secret order.

    secret: fresh bytes of os.urandom; the same secret and rows give the same order. budget: what may be kept in memory
    [bytes]; rows beyond it go to the spool, run by run, cut into buckets by their order keys. Without a budget all
    stays in memory. expected_rows, expected_bytes: about how many rows and bytes of items will come; only how the disk
    is used follows them. Variable time: sorting shows the order alone, which is what the peer gets to see anyway.
    """

    def __init__(
        self,
        secret: bytes,
        expected_rows: int = 0,
        expected_bytes: int = 0,
        spool: Spool | None = None,
        budget: int | None = None,
    ) -> None:
        self._secret = secret
        self._expected = expected_rows, expected_bytes
        self._spool = spool
        self._budget = budget
        self._chunks: list[Any] = []
        self._cost = 0
        self._runs: _Runs | None = None

    def expect(self, rows: int) -> None:
        """Take a better guess how many rows there will be [rows]; too low a one grows, too high a one reserves more."""
        self._expected = rows, self._expected[1]

    def add(self, encoded: Any) -> None:
        """Take the next rows of the input, as items (pa.LargeBinaryArray, null is matchless).

        Raises SpoolSpaceError, StorageError.
        """
        self._chunks.append(encoded)
        self._cost += _cost(len(encoded), _bytes_in(encoded))
        if self._budget is not None and self._cost > self._budget // (_SHARES if self._runs else 1):
            self._write_run(self._budget)

    def finish(self) -> OrderedItems:
        """Return what was added, in order; the sorter is used up."""
        if self._runs is None:
            return _InMemory(_Run(self._taken(), self._secret))
        if self._chunks:
            self._runs.append(_Run(self._taken(), self._secret))
        runs, self._runs = self._runs, None
        return _OnDisk(runs)

    def close(self) -> None:
        """Let go of the rows, where finish is not reached."""
        self._taken()
        if self._runs is not None:
            self._runs.close()

    def _taken(self) -> Any:
        rows = pa.concat_arrays([pa.array([], _BYTES), *self._chunks])
        self._chunks, self._cost = [], 0
        return rows

    def _write_run(self, budget: int) -> None:
        if self._runs is None:
            if self._spool is None:
                raise InternalError(detail="items for the disk without a spool")
            seen, seen_bytes = sum(map(len, self._chunks)), sum(map(_bytes_in, self._chunks))
            rows = max(self._expected[0], seen)
            size = max(self._expected[1], seen_bytes * rows // seen)
            self._runs = _Runs(self._spool, rows, size, budget)
        self._runs.append(_Run(self._taken(), self._secret))


class OrderedItems(ABC):
    """A task's distinct items in the secret order, and which rows they stand for. For any thread.

    len(): distinct items; rows: all rows of the input; matchless: those without an item.
    """

    rows: int
    matchless: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def slice(self, start: int, length: int) -> Any:
        """Return items start to start + length as pa.LargeBinaryArray; quick where the calls ascend."""

    @abstractmethod
    def row_mask(self, matched: Mask) -> Mask:
        """Return for each row of the input, in its order, whether its item is matched [a boolean an item, in order]."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the items, in memory or on disk."""


# What rows take until they are in order, beside twice their items [bytes a row]; the tests measure it.
_ROW_BYTES = 96
# Parts of the budget: one for the rows of a run, one for each of the two buckets at hand, one to spare.
_SHARES = 4
# At least so many buckets, in case more comes than was expected; at most so many, since a run leaves little in each.
_LEAST_BUCKETS, _MOST_BUCKETS = 16, 1 << 14

_Keys = npt.NDArray[np.uint64]
# What a run tells of a distinct item: its order key and its length.
_ENTRY = np.dtype([("key", ">u8", (2,)), ("length", "<u4")])
_CODE_BYTES = 4


def items_on_disk(rows: int, size: int, budget: int) -> int:
    """Return about what an ItemSorter takes on disk for rows with items of this size within its budget [bytes]."""
    return (_ENTRY.itemsize + _CODE_BYTES) * rows + size if _cost(rows, size) > budget else 0


def _cost(rows: int, size: int) -> int:
    """Return what it takes to bring rows with items of this size together [bytes]."""
    return _ROW_BYTES * rows + 2 * size


class _Run:
    """Some rows of the input, their equal items brought together.

    order: where an item of each distinct one stands in `items`, in the secret order; keys: their order keys; codes: of
    each row the place of its item in the order, or the number of distinct items if it is matchless.
    """

    def __init__(self, rows: Any, secret: bytes) -> None:
        self.matchless = rows.null_count
        self.items = _without_nulls(rows)
        keys = _keys(curve.order_keys(self.items, secret))
        if not self.matchless:
            self.order, self.codes, self.keys = _brought_together(keys)
            return
        there = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
        order, codes, self.keys = _brought_together(keys[there])
        self.order = there[order].astype(np.uint32)
        self.codes = np.full(len(rows), len(order), np.uint32)
        self.codes[there] = codes

    def in_order(self, start: int, stop: int) -> Any:
        return self.items.take(pa.array(self.order[start:stop]))


class _InMemory(OrderedItems):
    """All rows as one run."""

    def __init__(self, run: _Run) -> None:
        self.rows, self.matchless = len(run.codes), run.matchless
        run.keys = run.keys[:0].copy()
        self._run = run

    def __len__(self) -> int:
        return len(self._run.order)

    def slice(self, start: int, length: int) -> Any:
        return self._run.in_order(start, start + length)

    def row_mask(self, matched: Mask) -> Mask:
        return np.append(matched, False)[self._run.codes]

    def close(self) -> None:
        run = self._run
        run.items, run.order, run.codes = pa.array([], _BYTES), run.order[:0].copy(), run.codes[:0].copy()


class _Runs:
    """Runs on disk: a stream of entries and one of items a bucket, and one of all rows' codes.

    rows: of each run; entries: of each run, how many come before each bucket, and all.
    """

    def __init__(self, spool: Spool, rows: int, size: int, budget: int) -> None:
        wanted = -(-_cost(rows, size) // max(budget // _SHARES, 1))
        self.buckets = min(max(wanted, _LEAST_BUCKETS), _MOST_BUCKETS)
        self.entries: list[npt.NDArray[np.int64]] = []
        self.rows: list[int] = []
        self.matchless = 0
        # One file, so that what all of it takes is known, and reserved, at once.
        self._streams = Streams(spool, "items", 2 * self.buckets + 1, (_ENTRY.itemsize + _CODE_BYTES) * rows + size)

    def append(self, run: _Run) -> None:
        items = run.in_order(0, len(run.order))
        offsets, data = packed(items)
        entries = np.empty(len(items), _ENTRY)
        entries["key"] = run.keys
        entries["length"] = np.diff(offsets)
        # The upper half of a key's first word tells its bucket, in ascending order.
        buckets = (run.keys[:, 0] >> np.uint64(32)) * np.uint64(self.buckets) >> np.uint64(32)
        ends = np.searchsorted(buckets, np.arange(self.buckets + 1, dtype=np.uint64))
        for bucket, (start, stop) in enumerate(pairwise(ends.tolist())):
            self._streams.append(bucket, entries[start:stop].view(np.uint8))
            self._streams.append(self.buckets + bucket, data[offsets[start] : offsets[stop]])
        self._streams.append(2 * self.buckets, run.codes)
        self.entries.append(ends)
        self.rows.append(len(run.codes))
        self.matchless += run.matchless

    def bucket(self, bucket: int) -> tuple[Any, npt.NDArray[np.uint32]]:
        """Return a bucket's items as the runs left them, and where each distinct one stands, in order."""
        entries = self._entries_of(bucket)
        order, _, _ = _brought_together(entries["key"].astype(np.uint64))
        data = self._streams.read(self.buckets + bucket)
        offsets = np.concatenate([[0], np.cumsum(entries["length"], dtype=np.int64)])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(_BYTES, len(entries), buffers), order

    def codes_in(self, bucket: int) -> tuple[npt.NDArray[np.uint32], int]:
        """Return for each entry of a bucket, run by run, the place of its item in the bucket's order, and its items."""
        order, codes, _ = _brought_together(self._entries_of(bucket)["key"].astype(np.uint64))
        return codes, len(order)

    def row_codes(self) -> Iterator[npt.NDArray[np.uint32]]:
        """Give the codes of each run's rows."""
        start = 0
        for rows in self.rows:
            stop = start + _CODE_BYTES * rows
            yield self._streams.read(2 * self.buckets, start, stop).view(np.uint32)
            start = stop

    def close(self) -> None:
        self._streams.close()

    def _entries_of(self, bucket: int) -> Any:
        return self._streams.read(bucket).view(_ENTRY)


class _OnDisk(OrderedItems):
    """Runs, read bucket by bucket: the order of the buckets is that of their items."""

    def __init__(self, runs: _Runs) -> None:
        self.rows, self.matchless = sum(runs.rows), runs.matchless
        self._runs = runs
        counts = [runs.codes_in(bucket)[1] for bucket in range(runs.buckets)]
        # Where each bucket's items begin in the order, and where the last one's end.
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._at_hand: dict[int, tuple[Any, npt.NDArray[np.uint32]]] = {}
        self._guard = Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def slice(self, start: int, length: int) -> Any:
        stop = min(start + length, len(self))
        parts = [pa.array([], _BYTES)]
        with self._guard:
            bucket = int(np.searchsorted(self._starts, start, side="right")) - 1
            while start < stop:
                items, order = self._bucket(bucket)
                first = int(self._starts[bucket])
                part = order[start - first : stop - first]
                parts.append(items.take(pa.array(part)))
                start += len(part)
                bucket += 1
        return pa.concat_arrays(parts)

    def row_mask(self, matched: Mask) -> Mask:
        # Of each run: whether its entries are matched, and for the matchless rows one more that is not.
        of_entries = [np.zeros(ends[-1] + 1, np.bool_) for ends in self._runs.entries]
        for bucket in range(self._runs.buckets):
            found = matched[self._starts[bucket] + self._runs.codes_in(bucket)[0]]
            for flags, ends in zip(of_entries, self._runs.entries, strict=True):
                part, found = np.split(found, [ends[bucket + 1] - ends[bucket]])
                flags[ends[bucket] : ends[bucket + 1]] = part
        mask = np.empty(self.rows, np.bool_)
        start = 0
        for flags, codes in zip(of_entries, self._runs.row_codes(), strict=True):
            mask[start : start + len(codes)] = flags[codes]
            start += len(codes)
        return mask

    def close(self) -> None:
        self._at_hand.clear()
        self._runs.close()

    def _bucket(self, bucket: int) -> tuple[Any, npt.NDArray[np.uint32]]:
        """Return a bucket; two stay at hand, since neighbouring slices may be asked for in any order."""
        if bucket not in self._at_hand:
            while len(self._at_hand) > 1:
                del self._at_hand[min(self._at_hand)]
            self._at_hand[bucket] = self._runs.bucket(bucket)
        return self._at_hand[bucket]


def _keys(packed_keys: bytes) -> _Keys:
    return np.frombuffer(packed_keys, ">u8").reshape(-1, 2).astype(np.uint64)


def _brought_together(keys: _Keys) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], _Keys]:
    """Return where one of each distinct key stands, ascending by key; the place of each key in there; these keys."""
    if len(keys) > _MOST_ROWS:
        raise InternalError(detail="more rows at a time than there are numbers for them")
    order = np.argsort(keys[:, 0])
    ordered = keys.take(order, axis=0)
    differs = ordered[1:] != ordered[:-1]
    if (differs[:, 1] & ~differs[:, 0]).any():
        # The same first half and another second one, once in 2^64 pairs of keys.
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        ordered = keys.take(order, axis=0)
        differs = ordered[1:] != ordered[:-1]
    is_new = np.ones(len(keys), np.bool_)
    is_new[1:] = differs[:, 0] | differs[:, 1]
    places = np.empty(len(keys), np.uint32)
    places[order] = np.cumsum(is_new, dtype=np.uint32) - np.uint32(1)
    if is_new.all():
        return order.astype(np.uint32), places, ordered
    return order[is_new].astype(np.uint32), places, ordered[is_new]


def _bytes_in(array: Any) -> int:
    """Return how long the items of an array are together [bytes]."""
    if not len(array):
        return 0
    offsets = np.frombuffer(array.buffers()[1], np.int64)
    return int(offsets[array.offset + len(array)] - offsets[array.offset])


def _without_nulls(array: Any) -> Any:
    """View an array with whatever stands in its buffers where it has nulls."""
    return pa.Array.from_buffers(array.type, len(array), [None, *array.buffers()[1:]], offset=array.offset)


def _value_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _text(value: str) -> Any:
    return pa.scalar(value, _TEXT)


def _joined(*pieces: Any) -> Any:
    texts = [_text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return pc.binary_join_element_wise(*texts, _text(""))
