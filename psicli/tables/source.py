"""Input files: opened with care, watched for changes, unzipped as they are read."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from psicli import errors, items
from psicli.errors import shown

_MAX_SHOWN_COLUMNS = 30

# Device, inode, size [bytes], time of the last change [ns], SHA-256.
Fingerprint = tuple[int, int, int, int, str]


class SourceFile(AbstractContextManager["SourceFile"]):
    """An open input that has to stay as it was when it was opened, until it is closed.

    Raises InputMissingError. name: what it is called in messages; size: of the file [bytes].
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.file = _open(path, name)
        self._path = path
        # Device, inode, size [bytes] and time of the last change [ns].
        self.identity = _identity(os.fstat(self.file.fileno()))
        self.size = self.identity[2]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise InputChangedError if the file is another one when the block ends, or ends in a mistake."""
        try:
            yield
        except errors.PsicliError:
            # What a file torn between two versions looks like is no mistake of its author's.
            self._check_unchanged()
            raise
        self._check_unchanged()

    def _check_unchanged(self) -> None:
        with errors.storing(self.name, "reading"):
            try:
                unchanged = self.identity == _identity(os.fstat(self.file.fileno())) == _identity(os.stat(self._path))
            except FileNotFoundError:
                unchanged = False
        if not unchanged:
            raise errors.InputChangedError(path=self.name)

    def fingerprint(self) -> Fingerprint:
        """Tell the file as it was opened from any other; raises InputChangedError, StorageError."""
        with errors.storing(self.name, "reading"), self.watched():
            digest = hashlib.file_digest(io.BufferedReader(_View(self.file.fileno()), 1 << 20), "sha256")
        return *self.identity, digest.hexdigest()

    def view(self) -> BinaryIO:
        """Return the file once more, with a position of its own, for a thread of its own."""
        return cast(BinaryIO, _View(self.file.fileno()))

    def stream(self, *, zipped: bool) -> Stream:
        """Return the file's bytes from the beginning, unzipped if they are zipped."""
        return Stream(self.file, self.name, zipped=zipped)

    def close(self) -> None:
        self.file.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class _View(io.RawIOBase):
    """An open file that others read too, from a position that is nobody else's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = os.preadv(self._descriptor, [buffer], self._at)
        self._at += size
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self._descriptor).st_size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        # RawIOBase's own copies every piece, which takes more memory than the budget of a run foresees.
        left = os.fstat(self._descriptor).st_size - self._at
        data = os.pread(self._descriptor, max(left, 0) if size < 0 else size, self._at)
        self._at += len(data)
        return data


class Stream:
    """Reads bytes in pieces, forwards. Raises BrokenGzipError, StorageError."""

    def __init__(self, file: BinaryIO, name: str, *, zipped: bool) -> None:
        file.seek(0)
        self._file: Any = gzip.GzipFile(fileobj=file, mode="rb") if zipped else file
        self._name = name

    def read(self, size: int) -> bytes:
        """Return the next bytes: so many, or fewer where they end."""
        with self._no_foreign_errors():
            return bytes(self._file.read(size))

    def read_at(self, start: int, size: int) -> bytes:
        """Return bytes that come after those read before."""
        with self._no_foreign_errors():
            self._file.seek(start)
            return bytes(self._file.read(size))

    @contextmanager
    def _no_foreign_errors(self) -> Iterator[None]:
        with errors.storing(self._name, "reading"):
            try:
                yield
            except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
                raise errors.BrokenGzipError(path=self._name) from exc


def _open(path: Path, name: str) -> BinaryIO:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise errors.FileMissingError(path=name) from exc
    except OSError as exc:
        raise errors.UnreadableInputError(path=name, reason=errors.reason(exc)) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise errors.UnreadableInputError(path=name, reason="it is not a regular file")
    return open(descriptor, "rb")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# Columns -------------------------------------------------------------------------------------------------------


def check_columns(columns: Sequence[str], keys: Sequence[str], name: str) -> None:
    """Refuse column names that are not distinct or lack a key; raises DuplicateColumnError, MissingColumnError."""
    seen = set()
    for column in columns:
        if column in seen:
            raise errors.DuplicateColumnError(path=name, column=shown(column))
        seen.add(column)
    for key in keys:
        if key not in seen:
            listed = ", ".join(shown(column) for column in columns[:_MAX_SHOWN_COLUMNS])
            more = f" and {len(columns) - _MAX_SHOWN_COLUMNS} more" if len(columns) > _MAX_SHOWN_COLUMNS else ""
            raise errors.MissingColumnError(path=name, column=shown(key), columns=listed + more)


def check_schema(schema: Any, keys: Sequence[str], name: str) -> None:
    """Refuse a pa.Schema whose key columns are missing or have no text; raises as check_columns, KeyTypeError."""
    check_columns(schema.names, keys, name)
    items.check_key_types([(key, schema.field(key).type) for key in keys], path=name)
