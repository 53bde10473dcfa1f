"""Compresses outputs. Equal content gives equal bytes, however it is divided into writes."""

from __future__ import annotations

import gzip
import io
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

import pyarrow as pa

from psicli.core.formats import Compression


def compressed(file: BinaryIO, compression: Compression) -> AbstractContextManager[Any]:
    """Return a file object that compresses into `file`, which stays open."""
    match compression:
        case Compression.GZIP:
            # The header has no name and no time, so that equal content gives equal bytes.
            return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
        case Compression.ZSTD:
            stream: AbstractContextManager[Any] = pa.CompressedOutputStream(
                pa.PythonFile(_LeftOpen(file), mode="w"), "zstd"
            )
            return stream
        case Compression.NONE:
            return nullcontext(file)


class _LeftOpen(io.RawIOBase):
    """A file that stays open when pyarrow closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)
