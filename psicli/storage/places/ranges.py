"""Reads objects of a store by ranges of bytes."""

from __future__ import annotations

from typing import Any

from psicli.core import errors
from psicli.core.errors import PsicliError
from psicli.core.places import Url
from psicli.storage.places.reading import Identity, OpenFile
from psicli.storage.places.remote import located, missing, store_faults

# What a store says about the state of an object; other facts may be those of the answer.
_STATE = {"etag", "versionid", "generation", "last-modified"}


class RemoteFile(OpenFile):
    """An object of a store. Raises InputMissingError, StoreError."""

    is_remote = True

    def __init__(self, url: Url, name: str) -> None:
        self.name = name
        self._url = url
        with store_faults(url, name, missing):
            self._file, self.identity = self._opened()
        self.size = int(self.identity[1])

    def _opened(self) -> tuple[Any, Identity]:
        files, path = located(self._url)
        file = files.open_input_file(path)
        state = {key.lower(): value for key, value in dict(file.metadata()).items() if key.lower() in _STATE}
        if not state:
            state = {"changed": files.get_file_info(path).mtime_ns or 0}
        texts = (f"{key}={_text(value)}" for key, value in sorted(state.items()))
        return file, (self._url.text, file.size(), *texts)

    def pread(self, offset: int, size: int) -> bytes:
        with store_faults(self._url, self.name, self._gone):
            # Several threads may do this at once.
            return bytes(self._file.read_at(size, offset))

    def check_unchanged(self) -> None:
        with store_faults(self._url, self.name, self._gone):
            file, identity = self._opened()
            file.close()
        if identity != self.identity:
            raise errors.InputChangedError(path=self.name)

    def _gone(self, url: Url, fault: str, advice: str) -> PsicliError:
        return missing(url, fault, advice) if advice else errors.InputChangedError(path=self.name)

    def close(self) -> None:
        self._file.close()


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
