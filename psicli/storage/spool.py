"""The spool: temporary files of a run for data that does not fit in memory, in a subfolder of the state folder."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from psicli.core import failpoints
from psicli.core.errors import InternalError, SpoolSpaceError, StorageError, creating, in_units, reason, storing
from psicli.storage.state import left_over, run_folder

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Extra space to reserve when a file outgrows its reservation [bytes].
_AHEAD_BYTES = 16 << 20


class Spool(AbstractContextManager["Spool"]):
    """The temporary files of one run, in a folder that is created with the first file. Thread-safe.

    Creating a spool removes the files of runs that no longer exist. Raises CannotCreateError if other users own the
    state folder or have access to it. peak: the most space reserved at the same time [bytes].
    """

    def __init__(self, state: Path) -> None:
        self.peak = 0
        self.state = state
        self._folder: Path | None = None
        self._remove_folder = ExitStack()
        self._files: set[SpoolFile] = set()
        self._guard = threading.RLock()
        self._closed = False
        left_over(state, remove=True)

    def file(self, name: str, reserve: int) -> SpoolFile:
        """Return a new file with `reserve` [bytes] of reserved space.

        Raises CannotCreateError, SpoolSpaceError if there is not enough space, StorageError.
        """
        with self._guard:
            if self._closed:
                # A thread may still read an input when the run has ended. Nobody would remove a folder created now.
                raise StorageError(path=self.state, reason="the run has ended")
            if self._folder is None:
                self._folder = self._remove_folder.enter_context(run_folder(self.state))
                with creating(self.state):
                    failpoints.hit("spool.created")
            file = SpoolFile(self._folder, name, self)
            self._files.add(file)
        try:
            self.reserve(file, reserve)
        except BaseException:
            file.close()
            raise
        return file

    def reserve(self, file: SpoolFile, size: int) -> None:
        """Reserve disk space for a file of `size` [bytes] in total.

        Raises SpoolSpaceError if there is not enough space, StorageError.
        """
        with self._guard, storing(self.state, "reserving space"):
            held = sum(each.reserved for each in self._files)
            more = size - file.reserved
            try:
                failpoints.hit("spool.reserved")
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as exc:
                if exc.errno not in _NO_SPACE:
                    raise
                free = shutil.disk_usage(self.state).free
                raise SpoolSpaceError(
                    folder=self.state,
                    need=in_units(more),
                    held=in_units(held),
                    free=in_units(free),
                    reason=reason(exc),
                ) from exc
            file.reserved = size
            self.peak = max(self.peak, held + more)

    def forget(self, file: SpoolFile) -> None:
        """Stop counting the reserved space of a closed file."""
        with self._guard:
            self._files.discard(file)

    def close(self) -> None:
        """Delete all files; may be called again."""
        with self._guard, self._remove_folder:
            self._closed = True
            for file in [*self._files]:
                file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class SpoolFile:
    """A file of a spool; one thread at a time appends, any thread reads. Closing the file deletes it.

    reserved: the reserved space [bytes].
    """

    def __init__(self, folder: Path, name: str, spool: Spool) -> None:
        self.reserved = 0
        self._end = 0
        self._spool = spool
        with creating(folder):
            descriptor, self._path = tempfile.mkstemp(f"-{name}", dir=folder)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)

    def fileno(self) -> int:
        return self._file.fileno()

    def append(self, data: Any) -> int:
        """Append a contiguous buffer and return its offset; raises SpoolSpaceError, StorageError."""
        view = memoryview(data).cast("B")
        begin, self._end = self._end, self._end + len(view)
        if self._end > self.reserved:
            self._spool.reserve(self, self._end + _AHEAD_BYTES)
        with storing(self._spool.state, "writing"):
            failpoints.hit("spool.written")
            while view:
                view = view[os.write(self.fileno(), view) :]
        return begin

    def read_at(self, offset: int, into: memoryview) -> None:
        """Fill a buffer with the bytes at an offset, all of which must have been written; raises StorageError."""
        with storing(self._spool.state, "reading"):
            failpoints.hit("spool.read")
            while into:
                done = os.preadv(self.fileno(), [into], offset)
                if not done:
                    raise InternalError(detail="a spool file ends too early")
                offset, into = offset + done, into[done:]

    def close(self) -> None:
        """Delete the file; may be called again."""
        self._file.close()
        with suppress(OSError):
            os.unlink(self._path)
        self._spool.forget(self)
