"""Opens input files, detects changes to them, and unzips them while they are read."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from psicli.core import errors
from psicli.core.errors import shown
from psicli.core.formats import Compression, Format

_MAX_SHOWN_COLUMNS = 30
# The size of the pieces in which compressed data is skipped [bytes].
_SKIPPED_BYTES = 1 << 20

# What distinguishes a file from any other: device, inode, size [bytes], time of the last change [ns], SHA-256.
Fingerprint = tuple[int, int, int, int, str]


class SourceFile:
    """An open input file that must not change until it is closed.

    Raises InputMissingError. name: the name of the file in messages; size: the size of the file [bytes].
    """

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.file = _open(path, name)
        self._path = path
        # Device, inode, size [bytes], time of the last change [ns].
        self.identity = _identity(os.fstat(self.file.fileno()))
        self.size = self.identity[2]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Raise InputChangedError if the file has changed by the end of the block, even after another error."""
        try:
            yield
        except errors.PsicliError:
            # If the file changed while psicli read it, the change caused the error, not the content of the file.
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

    def view(self) -> Any:
        """Return another file object on the same file, with its own position, for use in another thread."""
        return _View(self.file.fileno(), self.size)

    def close(self) -> None:
        """Close the file; does nothing if it is closed already."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _View(io.RawIOBase):
    """A file object that shares its file descriptor with others but has its own position."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        # RawIOBase.read copies every piece, and the memory budget does not allow for the copies.
        data = os.pread(self._descriptor, size, self._at)
        self._at += len(data)
        return data


class Stream:
    """A reader of a file's decompressed bytes, from start to end. Raises MalformedInputError, StorageError."""

    def __init__(self, source: SourceFile, compression: Compression) -> None:
        self._file: Any = _decompressed(source, compression)
        self._compression = compression
        self._name = source.name
        self._at = 0

    def read(self, size: int, start: int | None = None) -> bytes:
        """Return the next `size` bytes, or fewer at the end; start: a later offset to skip to [bytes]."""
        with errors.storing(self._name, "reading"):
            try:
                if start is not None:
                    self._skip_to(start)
                data = bytes(self._file.read(size))
            except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
                raise self._damaged("truncated or damaged") from exc
            except OSError as exc:
                # pyarrow reports errors of its codec as OSError, but without the number of a system error.
                if exc.errno is not None:
                    raise
                large = "too much memory" in str(exc)
                fault = "compressed with a window of more than 128 MiB" if large else "truncated or damaged"
                raise self._damaged(fault) from exc
        self._at += len(data)
        return data

    def _skip_to(self, start: int) -> None:
        if self._compression is Compression.NONE:
            self._at = self._file.seek(start)
        while self._at < start and (skipped := len(self._file.read(min(start - self._at, _SKIPPED_BYTES)))):
            self._at += skipped

    def _damaged(self, fault: str) -> errors.MalformedInputError:
        return errors.MalformedInputError(
            place=self._name,
            fault=f"the {self._compression} data is {fault}",
            advice=f"Check the file with `{self._compression} -t`, and make or copy it again.",
        )


def _decompressed(source: SourceFile, compression: Compression) -> Any:
    if compression is Compression.ZSTD:
        # pyarrow closes its file in the end, but others still need the source's.
        return pa.CompressedInputStream(pa.PythonFile(source.view(), mode="r"), "zstd")
    source.file.seek(0)
    return gzip.GzipFile(fileobj=source.file, mode="rb") if compression is Compression.GZIP else source.file


def _open(path: Path, name: str) -> io.BufferedReader:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise errors.InputMissingError(
            place=name,
            fault="no such file",
            advice="Check input_path in the job file; relative paths start at the job file's folder.",
        ) from exc
    except OSError as exc:
        raise _unreadable(name, errors.reason(exc)) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unreadable(name, "it is not a regular file")
    return open(descriptor, "rb")


def _unreadable(name: str, reason: str) -> errors.InputMissingError:
    return errors.InputMissingError(
        place=name,
        fault=f"cannot be opened for reading: {reason}",
        advice="Check input_path in the job file, and that this user may read the file.",
    )


def empty(name: str) -> errors.MalformedInputError:
    """Return the error for a file without a header."""
    return errors.MalformedInputError(
        place=name,
        fault="the file is empty and has no header",
        advice="Check that the export is complete; a file without rows needs a header line too.",
    )


def not_utf8(place: str) -> errors.MalformedInputError:
    """Return the error for text that is not UTF-8."""
    return errors.MalformedInputError(
        place=place,
        fault="not UTF-8 text",
        advice="Save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`.",
    )


def unparsable(name: str, kind: Format) -> errors.MalformedInputError:
    """Return the error for a file that is not in the expected format."""
    return errors.MalformedInputError(
        place=name,
        fault=f"cannot be read as {kind}",
        advice="Check that it is the right file, that it is complete, and that its suffix matches its format.",
    )


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def fingerprint(path: Path, name: str) -> Fingerprint:
    """Return a file's fingerprint; raises InputMissingError, InputChangedError, StorageError."""
    with SourceFile(path, name) as source, errors.storing(name, "reading"), source.watched():
        return *source.identity, hashlib.file_digest(source.file, "sha256").hexdigest()


def check_columns(columns: Sequence[str], keys: Sequence[str], name: str) -> None:
    """Check that column names are distinct and include all keys; raises MalformedInputError, InputMissingError."""
    seen = set()
    for column in columns:
        if column in seen:
            raise errors.MalformedInputError(
                place=name,
                fault=f"the column name {shown(column)} appears more than once",
                advice="Rename one of the columns, because psicli finds columns by name.",
            )
        seen.add(column)
    for key in keys:
        if key not in seen:
            listed = ", ".join(shown(column) for column in columns[:_MAX_SHOWN_COLUMNS])
            more = f" and {len(columns) - _MAX_SHOWN_COLUMNS} more" if len(columns) > _MAX_SHOWN_COLUMNS else ""
            raise errors.InputMissingError(
                place=name,
                fault=f"there is no column {shown(key)}; the file has {listed}{more}",
                advice="Check keys in the job file; column names must match exactly, including case and spaces.",
            )
