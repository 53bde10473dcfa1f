"""Opens files, reads them by ranges of bytes, and notices when they change."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import unicodedata
from abc import ABC, abstractmethod
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from psicli.core import errors
from psicli.core.errors import shown
from psicli.core.formats import file_format
from psicli.core.places import Place, Url

# To compare a name with many others takes long.
_COMPARED_FILES = 10_000

# How much of a file on another machine a stream reads at once [bytes].
AHEAD_BYTES = 4 << 20

# What distinguishes a file from any other, and from what it was before: of a file on this machine its device, inode,
# size [bytes] and time of the last change [ns]; of an object its URL, version, ETag, size and time. JSON can hold it.
Identity = tuple[int | str, ...]


class OpenFile(ABC):
    """A file that is open for reading; several threads may read it at the same time.

    name: the name of the file in messages. size: [bytes]. identity: what it is, and in which state.
    """

    name: str
    size: int
    identity: Identity
    # Whether the file is on another machine, so that every read is a request.
    is_remote = False

    @abstractmethod
    def pread(self, offset: int, size: int) -> bytes:
        """Return the bytes of a range, fewer only at the end of the file; raises OSError, StorageError."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raise InputChangedError if the file is no longer what it was when it was opened; raises StorageError."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; does nothing if it is closed already."""

    def view(self, ahead: int = 0) -> View:
        """Return a file object on the file with a position of its own, for use in another thread.

        ahead: how much a small read may read ahead where every read is a request to another machine [bytes].
        """
        return View(self, ahead if self.is_remote else 0)


class View(io.RawIOBase):
    """A file object that shares an open file with others but has its own position."""

    def __init__(self, file: OpenFile, ahead: int) -> None:
        self._file = file
        self._size = file.size
        self._at = 0
        self._ahead = ahead
        # What was read last, and where it starts.
        self._block, self._start = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        # RawIOBase.read copies every piece, and the memory budget does not allow for the copies.
        # A damaged file can make a library ask for more bytes than memory has.
        rest = max(self._size - self._at, 0)
        size = rest if size is None or size < 0 else min(size, rest)
        data = self._piece(size) if size else b""
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _piece(self, size: int) -> bytes:
        skipped = self._at - self._start
        data = self._block[skipped : skipped + size] if 0 <= skipped < len(self._block) else b""
        at, size = self._at + len(data), size - len(data)
        if size >= max(self._ahead, 1):
            return data + self._file.pread(at, size) if data else self._file.pread(at, size)
        if size:
            self._block, self._start = self._file.pread(at, self._ahead), at
            data += self._block[:size]
        return data


def open_file(place: Place, name: str) -> OpenFile:
    """Open a file; messages show `name`. Raises InputMissingError, StorageError."""
    if isinstance(place, Url):
        # Imported late, because a run on local files does not need these libraries.
        from psicli.storage.places.ranges import RemoteFile

        return RemoteFile(place, name)
    return _LocalFile(place, name)


def sha256_of(place: Place) -> str:
    """Return the SHA-256 of a file in hex, as from `sha256sum`; raises OSError, InputMissingError, StorageError."""
    with closing(open_file(place, str(place))) as file:
        return hashlib.file_digest(file.view(ahead=AHEAD_BYTES), "sha256").hexdigest()


class _LocalFile(OpenFile):
    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._descriptor = _open(path, name)
        self.name = name
        self.identity = _identity(os.fstat(self._descriptor))
        self.size = os.fstat(self._descriptor).st_size

    def pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def check_unchanged(self) -> None:
        with errors.storing(self.name, "reading"):
            try:
                unchanged = self.identity == _identity(os.fstat(self._descriptor)) == _identity(os.stat(self._path))
            except FileNotFoundError:
                unchanged = False
        if not unchanged:
            raise errors.InputChangedError(path=self.name)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            # Another file may get the same number.
            self._descriptor = -1


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: Path, name: str) -> int:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        fault, advice = _missing(path)
        raise errors.InputMissingError(place=name, fault=fault, advice=advice) from exc
    except OSError as exc:
        fault = f"cannot be opened for reading: {errors.reason(exc)}"
        advice = "Check input_path in the job file, and that this user may read the file."
        raise errors.no_descriptor(name, exc) or errors.InputMissingError(
            place=name, fault=fault, advice=advice
        ) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        fault = "cannot be opened for reading: it is not a regular file"
        advice = "psicli reads an input twice. To read from a pipe, use `-` for standard input."
        raise errors.InputMissingError(place=name, fault=fault, advice=advice)
    return descriptor


def _missing(path: Path) -> tuple[str, str]:
    """Return what is wrong with the path of a file that does not exist, and what to do."""
    advice = "Check input_path in the job file; relative paths start at the job file's folder."
    with suppress(OSError):
        return f"no such file, but a link to {shown(os.readlink(path))}, which does not exist", advice
    with suppress(OSError), os.scandir(path.parent) as entries:
        # Another date or number is another file, so a name that is merely similar would mislead.
        for other in (entry.name for entry in islice(entries, _COMPARED_FILES)):
            one, two = sorted((folded(path.name), folded(other)), key=len)
            if one == two or two.startswith(f"{one}."):
                with suppress(errors.UnknownFormatError):
                    file_format(other)
                    return "no such file", f"Did you mean {shown(other)}? {advice}"
    if "\\" in path.name:
        advice = "Write / between the names of folders. " + advice
    return "no such file", advice


def folded(name: str) -> str:
    """Return a name without the differences that people overlook."""
    return re.sub(r"[\s_\u200b\ufeff-]", "", unicodedata.normalize("NFKC", name).casefold())
