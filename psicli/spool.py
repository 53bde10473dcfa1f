"""What does not fit in memory: files of a run in the state folder, and the packed records a task asks questions about.

Everything a task keeps is a list of uniformly random records of one size (or follows such a list). So a long one is cut
into buckets that each fit in memory and lie on disk until their turn; a short one is the same with a single bucket and
no file. What is answered never depends on the cut.

A run's files lie in a folder of its own in the state folder.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from psicli import failpoints
from psicli.errors import CannotCreateError, InternalError, SpoolSpaceError, StorageError
from psicli.state import RunFolder, reason, sweep

Mask = npt.NDArray[np.bool_]
# Packed records as 64-bit words: one row a record.
Words = npt.NDArray[np.uint64]

# The files of a run --------------------------------------------------------------------------------------------

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Spool:
    """The files of one run, in a folder of their own that is made when the first is asked for. For any thread.

    peak: the most that was reserved at once [bytes].
    """

    def __init__(self, state: Path) -> None:
        self.peak = 0
        self._state = state
        self._folder: RunFolder | None = None
        self._files: dict[SpoolFile, int] = {}
        self._count = 0
        self._guard = threading.RLock()

    @classmethod
    def open(cls, state: Path) -> Self:
        """Return the spool of this run and remove those of runs that are gone.

        Raises CannotCreateError for a state folder that others can look into or own. None is made before it is needed.
        """
        sweep(state)
        return cls(state)

    def file(self, name: str, reserve: int) -> SpoolFile:
        """Return a new file with room for `reserve` [bytes].

        Raises CannotCreateError, SpoolSpaceError where there is no such room, StorageError.
        """
        with self._guard:
            folder = self._own_folder()
            self._count += 1
            file = SpoolFile(folder.path / f"{self._count:04}-{name}", self)
            self._files[file] = 0
        try:
            file.reserve(reserve)
        except BaseException:
            file.close()
            raise
        return file

    def expect(self, size: int) -> None:
        """Raise SpoolSpaceError if so much more [bytes] would not fit, before any of it takes the space of others."""
        with self._guard:
            self._own_folder()
            if size > shutil.disk_usage(self._state).free:
                raise self._no_room(size, os.strerror(errno.ENOSPC).lower())

    def close(self) -> None:
        """Delete everything; does nothing the second time."""
        with self._guard:
            for file in list(self._files):
                file.close()
            if self._folder is not None:
                self._folder.remove()
                self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own_folder(self) -> RunFolder:
        if self._folder is None:
            self._folder = RunFolder(self._state)
        return self._folder

    def _set_size(self, file: SpoolFile, size: int) -> None:
        """Make room for a file, or raise SpoolSpaceError."""
        with self._guard:
            held = sum(self._files.values())
            try:
                failpoints.passage("spool.reserved")
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as exc:
                if exc.errno not in _NO_SPACE:
                    raise StorageError(path=self._state, reason=f"reserving space failed: {reason(exc)}") from exc
                raise self._no_room(size - self._files[file], reason(exc)) from exc
            self.peak = max(self.peak, held - self._files[file] + size)
            self._files[file] = size

    def _no_room(self, need: int, why: str) -> SpoolSpaceError:
        return SpoolSpaceError(
            folder=self._state,
            need=in_units(need),
            held=in_units(sum(self._files.values())),
            free=in_units(shutil.disk_usage(self._state).free),
            reason=why,
        )

    def _forget(self, file: SpoolFile) -> None:
        with self._guard:
            self._files.pop(file, None)


@dataclass(frozen=True)
class Storage:
    """What a run has for its data: memory [bytes], and a spool for what exceeds it."""

    spool: Spool | None = None
    memory: int = sys.maxsize

    def share(self, part: float) -> int:
        """Return that part of the memory [bytes]."""
        return int(self.memory * part)

    def expect(self, size: int) -> None:
        """Raise SpoolSpaceError if so much more [bytes] would not fit on disk."""
        if size and self.spool is not None:
            self.spool.expect(size)


IN_MEMORY = Storage()


class SpoolFile(io.FileIO):
    """A file of a spool, readable and writable; closed, it is gone. What fails to be written is a StorageError."""

    def __init__(self, path: Path, spool: Spool) -> None:
        self._path = path
        self._spool = spool
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as exc:
            raise CannotCreateError(path=path.parent, reason=reason(exc)) from exc
        super().__init__(descriptor, "r+b")

    def reserve(self, size: int) -> None:
        """Make sure that the file has room for this many bytes in all, without a hole.

        Raises SpoolSpaceError where there is no such room.
        """
        if size:
            self._spool._set_size(self, size)

    def write(self, data: Any, /) -> int:
        """Write all of it where the file stands."""
        view = memoryview(data).cast("B")
        with self._no_os_errors("writing"):
            failpoints.passage("spool.written")
            done = 0
            while done < len(view):
                done += super().write(view[done:]) or 0
        return done

    def write_at(self, offset: int, data: Any) -> None:
        view = memoryview(data).cast("B")
        with self._no_os_errors("writing"):
            failpoints.passage("spool.written")
            while view:
                done = os.pwrite(self.fileno(), view, offset)
                offset, view = offset + done, view[done:]

    def read_at(self, offset: int, into: memoryview) -> None:
        """Fill a buffer of bytes; what was never written must not be asked for."""
        with self._no_os_errors("reading"):
            failpoints.passage("spool.read")
            while into:
                done = os.preadv(self.fileno(), [into], offset)
                if not done:
                    raise InternalError(detail="a spool file ends too early")
                offset, into = offset + done, into[done:]

    def close(self) -> None:
        """Delete the file; does nothing the second time."""
        if not self.closed:
            super().close()
            with suppress(OSError):
                self._path.unlink()
            self._spool._forget(self)

    @contextmanager
    def _no_os_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(path=self._path.parent.parent, reason=f"{doing} failed: {reason(exc)}") from exc


def in_units(size: int) -> str:
    """Say a size [bytes] for people."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


# Buckets -------------------------------------------------------------------------------------------------------

# A stream grows by so much at a time, so that it is read in long pieces, yet little stays unused [bytes].
_LEAST_EXTENT, _MOST_EXTENT = 4096, 1 << 20
# Streams that grow beyond what was foreseen reserve so many extents at a time.
_EXTENTS_AHEAD = 64


def _extent(count: int, total: int) -> int:
    """Return by how much each of so many streams grows at a time [bytes]."""
    share = total // (4 * count)
    return min(max(share - share % _LEAST_EXTENT, _LEAST_EXTENT), _MOST_EXTENT)


def _reserved(count: int, total: int) -> int:
    """Return what so many streams take on disk [bytes]: one extent of each is not full."""
    return total + count * _extent(count, total)


class Streams:
    """Streams of bytes side by side in one file; each is appended to and read by itself. Not for several threads.

    total: what all of them will hold [bytes]; room for it is reserved at once, SpoolSpaceError if there is none.
    """

    def __init__(self, spool: Spool, name: str, count: int, total: int) -> None:
        self._extent = _extent(count, total)
        self._extents: list[list[int]] = [[] for _ in range(count)]
        self._sizes = [0] * count
        self._end = 0
        self._reserved = _reserved(count, total)
        self._file = spool.file(name, self._reserved)

    def size(self, stream: int) -> int:
        """Return how much a stream holds [bytes]."""
        return self._sizes[stream]

    def append(self, stream: int, data: Any) -> None:
        """Append a contiguous buffer to a stream."""
        view = memoryview(data).cast("B")
        while view:
            at = self._sizes[stream] % self._extent
            if at == 0:
                self._extents[stream].append(self._new_extent())
            part = view[: self._extent - at]
            self._file.write_at(self._extents[stream][-1] + at, part)
            self._sizes[stream] += len(part)
            view = view[len(part) :]

    def read(self, stream: int, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """Return bytes start to stop of a stream, or up to its end."""
        end = self._sizes[stream] if stop is None else min(stop, self._sizes[stream])
        data = np.empty(max(end - start, 0), np.uint8)
        view = data.data
        while view:
            extent, at = divmod(start, self._extent)
            part = view[: self._extent - at]
            self._file.read_at(self._extents[stream][extent] + at, part)
            start, view = start + len(part), view[len(part) :]
        return data

    def close(self) -> None:
        self._file.close()

    def _new_extent(self) -> int:
        offset, self._end = self._end, self._end + self._extent
        if self._end > self._reserved:
            self._reserved = self._end + _EXTENTS_AHEAD * self._extent
            self._file.reserve(self._reserved)
        return offset


# Records -------------------------------------------------------------------------------------------------------

# What a question takes for a record of a list in memory beside the record itself [bytes]; the tests measure all these.
_ASKED_BYTES = 24
# What it takes for a record of a bucket that is read from disk [bytes].
_READ_BYTES = 256
# What a record takes while it waits for its bucket, and while it is put there [bytes].
_WAITING_BYTES = 192
# Buckets come out unequal: aimed at this part of what one may hold, hardly one in a million holds more.
_BUCKET_FILL = 0.8


class Cut:
    """How the lists of one task that are compared with each other are kept, in memory or in buckets on disk.

    width: of a record [bytes], a multiple of 8; longest: records of the longest list; budget: what one list may take in
    memory, its part of a question included [bytes]. Without a budget everything stays in memory.

    A record's bucket is a hash of all its bytes under fresh secrets: whatever records a peer makes up, it cannot have
    many of them in one bucket, unless they are equal.
    """

    def __init__(self, width: int, longest: int = 0, budget: int | None = None, spool: Spool | None = None) -> None:
        self.width = width
        self.spool = spool
        self.buckets = 1
        if budget is not None and longest * (width + _ASKED_BYTES) > budget:
            self.piece = max(budget // _READ_BYTES, 1)
            self.waiting = max(budget // _WAITING_BYTES, 1)
            self.buckets = -(-longest // max(int(self.piece * _BUCKET_FILL), 1))
        # Multiplied by 32-bit words and added modulo 2^64; the upper half is a strongly universal hash.
        self._factors = np.frombuffer(secrets.token_bytes(8 * (1 + width // 4)), np.uint64)

    def row(self, records: int) -> np.dtype[np.void]:
        """Return how a record of a list of so many lies on disk, with its position."""
        position = "<u4" if records < 1 << 32 else "<u8"
        return np.dtype([("words", "<u4", (self.width // 4,)), ("position", position)])

    def disk_bytes(self, records: int) -> int:
        """Return what a list of so many records takes on disk [bytes]."""
        return _reserved(self.buckets, records * self.row(records).itemsize) if self.buckets > 1 else 0

    def buckets_of(self, words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Return the bucket of each record, given as rows of 32-bit words."""
        sums = np.full(len(words), self._factors[0])
        for at, factor in enumerate(self._factors[1:]):
            sums += words[:, at] * factor
        return ((sums >> np.uint64(32)) * np.uint64(self.buckets) >> np.uint64(32)).astype(np.uint32)


# Where a piece's records stand in their list: a slice of it, or position by position.
Positions = slice | npt.NDArray[Any]


class Records:
    """A list of packed records, in the order they were appended. Every comparison is of whole records.

    expected: how many there will be [records]; on disk there is room for them from the start, or SpoolSpaceError.
    Append from one thread at a time, ask when all is appended. Raises StorageError.
    """

    def __init__(self, cut: Cut, expected: int = 0) -> None:
        self._cut = cut
        self._store = _InMemory(cut, expected) if cut.buckets == 1 else _OnDisk(cut, expected)

    def __len__(self) -> int:
        return self._store.count

    def append(self, data: bytes) -> None:
        """Append packed records, a whole number of them."""
        self._store.append(np.frombuffer(data, "<u4").reshape(-1, self._cut.width // 4))

    def has_duplicates(self) -> bool:
        for bucket in range(self._cut.buckets):
            for number, (piece, _) in enumerate(self._store.pieces(bucket)):
                # There is hardly ever a second piece, unless records are equal.
                earlier = islice(self._store.pieces(bucket), number)
                if _has_equal(piece) or any(_has_common(piece, other) for other, _ in earlier):
                    return True
        return False

    def any_in(self, other: Records) -> bool:
        """Tell whether other, of the same cut, holds one of the records."""
        return any(_has_common(mine, theirs) for mine, _, theirs in self._pairs(other))

    def found_in(self, other: Records) -> Mask:
        """Return for each record whether other, of the same cut, holds it too."""
        mask = np.zeros(len(self), np.bool_)
        for mine, at, theirs in self._pairs(other):
            mask[at] |= _found(mine, theirs)
        return mask

    def close(self) -> None:
        """Let go of the records, in memory or on disk."""
        self._store.close()

    def _pairs(self, other: Records) -> Iterator[tuple[Words, Positions, Words]]:
        """Give all pieces that may have records in common."""
        if self._cut is not other._cut:
            raise InternalError(detail="lists of different cuts are compared")
        for bucket in range(self._cut.buckets):
            for theirs, _ in other._store.pieces(bucket):
                for mine, at in self._store.pieces(bucket):
                    yield mine, at, theirs


class _InMemory:
    """Records one after the other."""

    def __init__(self, cut: Cut, expected: int) -> None:
        self.count = 0
        # Memory is taken as it is filled.
        self._words = np.empty((expected, cut.width // 4), "<u4")

    def append(self, words: npt.NDArray[np.uint32]) -> None:
        end = self.count + len(words)
        if end > len(self._words):
            grown = np.empty((max(end, 2 * self.count), words.shape[1]), "<u4")
            grown[: self.count] = self._words[: self.count]
            self._words = grown
        self._words[self.count : end] = words
        self.count = end

    def pieces(self, bucket: int) -> Iterator[tuple[Words, Positions]]:
        if self.count:
            yield self._words[: self.count].view("<u8"), slice(self.count)

    def close(self) -> None:
        self._words, self.count = self._words[:0].copy(), 0


class _OnDisk:
    """Records with their positions, a stream a bucket; the last ones wait in memory until they fill it."""

    def __init__(self, cut: Cut, expected: int) -> None:
        if cut.spool is None:
            raise InternalError(detail="a list for the disk without a spool")
        self.count = 0
        self._cut = cut
        self._expected = expected
        self._row = cut.row(expected)
        self._streams = Streams(cut.spool, "records", cut.buckets, expected * self._row.itemsize)
        self._waiting = np.empty(0, self._row)
        self._filled = 0

    def append(self, words: npt.NDArray[np.uint32]) -> None:
        if self.count + len(words) > self._expected:
            raise InternalError(detail="a list is longer than it was said to be")
        if not len(self._waiting):
            self._waiting = np.empty(min(self._cut.waiting, self._expected), self._row)
        while len(words):
            part = words[: len(self._waiting) - self._filled]
            into = self._waiting[self._filled : self._filled + len(part)]
            into["words"] = part
            into["position"] = np.arange(self.count, self.count + len(part))
            self.count += len(part)
            self._filled += len(part)
            words = words[len(part) :]
            if self._filled == len(self._waiting):
                self._put_away()

    def pieces(self, bucket: int) -> Iterator[tuple[Words, Positions]]:
        if self._filled:
            self._put_away()
        self._waiting = self._waiting[:0].copy()
        step = self._cut.piece * self._row.itemsize
        for start in range(0, self._streams.size(bucket), step):
            rows = self._streams.read(bucket, start, start + step).view(self._row)
            yield np.ascontiguousarray(rows["words"]).view("<u8"), rows["position"]

    def close(self) -> None:
        self._streams.close()
        self._waiting, self._filled = self._waiting[:0].copy(), 0

    def _put_away(self) -> None:
        """Write what waits into its buckets."""
        rows = self._waiting[: self._filled]
        buckets = self._cut.buckets_of(rows["words"])
        order = np.argsort(buckets, kind="stable")
        rows = rows.take(order)
        ends = np.cumsum(np.bincount(buckets, minlength=self._cut.buckets)).tolist()
        for bucket, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                self._streams.append(bucket, rows[start:end].view(np.uint8))
        self._filled = 0


# Lists in memory -----------------------------------------------------------------------------------------------
#
# Records are told apart by their first words wherever these differ, which they do unless somebody made them up; then
# the whole records are sorted. Either takes n log n steps, whatever a peer sends.

_PAIRS_AT_A_TIME = 1 << 17


def _has_equal(records: Words) -> bool:
    firsts = records[:, 0].copy()
    repeated = _repeated(firsts)
    if not len(repeated):
        return False
    doubtful = records[np.isin(records[:, 0], repeated)]
    return bool(_is_repeated(doubtful[_whole_order(doubtful)]).any())


def _has_common(one: Words, other: Words) -> bool:
    # What one list repeats is found here too; then the look that follows is the one that counts.
    return len(_repeated(np.concatenate([one[:, 0], other[:, 0]]))) > 0 and bool(_found(one, other).any())


def _found(records: Words, others: Words) -> Mask:
    """Return for each record whether it is among the others."""
    mask = np.zeros(len(records), np.bool_)
    # Sorted together, the upper part of a first word with the place of the record instead of the lower one.
    tags = np.concatenate([records[:, 0], others[:, 0]])
    places = np.uint64((1 << len(tags).bit_length()) - 1)
    tags &= ~places
    tags |= np.arange(len(tags), dtype=np.uint64)
    tags.sort()
    alike = (tags[1:] ^ tags[:-1]) <= places
    tags &= places
    pairs = np.flatnonzero(alike)
    for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
        firsts = pairs[start : start + _PAIRS_AT_A_TIME]
        # Neighbours ascend, so that one of the others is always the second.
        mine, theirs = tags[firsts].astype(np.int64), tags[firsts + 1].astype(np.int64) - len(records)
        mixed = (mine < len(records)) & (theirs >= 0)
        mine, theirs = mine[mixed], theirs[mixed]
        mask[mine] = _equal(records.take(mine, axis=0), others.take(theirs, axis=0))
    middles = np.flatnonzero(alike[1:] & alike[:-1]) + 1
    if len(middles):
        # Not only neighbours are alike.
        alike_many = np.unique(tags[np.concatenate([middles - 1, middles, middles + 1])].astype(np.int64))
        mine, theirs = np.split(alike_many, [np.searchsorted(alike_many, len(records))])
        mask[mine] = _found_by_whole_order(records[mine], others[theirs - len(records)])
    return mask


def _found_by_whole_order(records: Words, others: Words) -> Mask:
    """Do the same for records that are much alike."""
    both = np.concatenate([others, records])
    order = _whole_order(both)
    group = np.cumsum(~_is_repeated(both[order])) - 1
    held = np.zeros(len(both), np.bool_)
    held[group[order < len(others)]] = True
    mask = np.empty(len(both), np.bool_)
    mask[order] = held[group]
    return mask[len(others) :]


def _repeated(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the words that are there more than once; sorts them where they stand."""
    words.sort()
    repeated: npt.NDArray[np.uint64] = words[1:][words[1:] == words[:-1]]
    return repeated


def _is_repeated(records: Words) -> Mask:
    """Tell of each record whether it equals the one before it."""
    mask = np.zeros(len(records), np.bool_)
    mask[1:] = _equal(records[1:], records[:-1])
    return mask


def _equal(one: Words, other: Words) -> Mask:
    equal: Mask = one[:, 0] == other[:, 0]
    for word in range(1, one.shape[1]):
        equal &= one[:, word] == other[:, word]
    return equal


def _whole_order(records: Words) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = np.lexsort(tuple(records.T))
    return order
