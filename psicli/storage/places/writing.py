"""Writes objects that appear whole or not at all.

In S3 and in Google Cloud Storage, an object appears when its last piece has arrived and the upload is closed. On other
stores, psicli writes to another name first and then renames.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from psicli.core import failpoints
from psicli.core.errors import storing
from psicli.core.places import Url
from psicli.storage.places.remote import located, not_storable, store_faults

# How much of a file is in memory while it is uploaded [bytes]; pyarrow keeps as much again.
_PIECE_BYTES = 8 << 20
# The stores in which an object appears only when its upload is closed.
_AT_ONCE = {"s3", "gs"}


def upload(path: Path, url: Url) -> None:
    """Put a file of this machine where a URL says; what was there stays until the new object is complete.

    Raises CannotStoreError, StorageError.
    """
    with store_faults(url, str(url), not_storable):
        files, target = located(url)
        if url.scheme in _AT_ONCE:
            _send(path, files, target)
            return
        folder, _, name = target.rpartition("/")
        temporary = f"{folder}/.{name}.psicli-{secrets.token_hex(8)}.tmp"
        try:
            _send(path, files, temporary)
            if url.scheme == "hdfs":
                # HDFS renames over nothing.
                with suppress(FileNotFoundError):
                    files.delete_file(target)
            files.move(temporary, target)
        except BaseException:
            with suppress(Exception):
                files.delete_file(temporary)
            raise


def _send(path: Path, files: Any, target: str) -> None:
    stream = files.open_output_stream(target)
    try:
        failpoints.hit("upload.begun")
        for piece in _pieces(path):
            stream.write(piece)
            failpoints.hit("upload.written")
        stream.close()
    except BaseException:
        _abandon(stream)
        raise
    failpoints.hit("upload.done")


def _pieces(path: Path) -> Iterator[bytes]:
    with ExitStack() as opened:
        with storing(path, "reading"):
            file = opened.enter_context(open(path, "rb", buffering=0))
        while True:
            with storing(path, "reading"):
                piece = file.read(_PIECE_BYTES)
            if not piece:
                return
            yield piece


def _abandon(stream: Any) -> None:
    """Keep an unfinished upload from being completed.

    pyarrow completes an upload when its stream is destroyed, also one that lacks its end, and has no other way to end
    it. So the stream is never destroyed: the process ends without.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))


def check_storable(url: Url) -> None:
    """Check that an object can be written where a URL says; raises CannotStoreError, StorageError.

    Only an attempt is reliable. In S3 and in Google Cloud Storage, an upload is begun and never continued, of which no
    reader of the bucket learns. On other stores, an empty file is written beside the output and removed.
    """
    with store_faults(url, str(url), not_storable):
        files, target = located(url, at_once=False)
        if url.scheme in _AT_ONCE:
            _abandon(files.open_output_stream(target))
            return
        folder, _, name = target.rpartition("/")
        probe = f"{folder}/.{name}.psicli-probe"
        files.open_output_stream(probe).close()
        files.delete_file(probe)


def size_of(url: Url) -> int | None:
    """Return the size of an object [bytes], or None if there is none; raises CannotStoreError, StorageError."""
    with store_faults(url, str(url), not_storable):
        files, target = located(url)
        size: int | None = files.get_file_info(target).size
        return size
