"""What does not fit in memory: files of a run, in a folder of its own in the state folder."""

from __future__ import annotations

import errno
import io
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from psicli import failpoints
from psicli.errors import CannotCreateError, InternalError, SpoolSpaceError, StorageError
from psicli.state import RunFolder, reason, sweep

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
    share = total // (8 * count)
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
