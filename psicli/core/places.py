"""Where files are: paths of this machine, and URLs of object stores and web servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeAlias

from psicli.core.errors import CannotCreateError, StorageError
from psicli.core.records import dataclass

# The schemes that psicli reads; https is for reading only.
SCHEMES = ("s3", "gs", "abfs", "abfss", "hdfs", "https")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SECRET = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, repr=False)
class Url:
    """A file, a folder or a pattern that is not on this machine."""

    text: str

    @property
    def scheme(self) -> str:
        """Return the scheme in lower case."""
        found = _URL.match(self.text)
        return found[1].lower() if found else ""

    @property
    def name(self) -> str:
        """Return the last part of the path, without a query."""
        return _SECRET.sub("", self.text).rstrip("/").rpartition("/")[2]

    def __str__(self) -> str:
        """Return the URL without the signature that its query may be."""
        return _SECRET.sub("?…", self.text)

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"


Place: TypeAlias = Path | Url


def is_on_web(place: Place) -> bool:
    """Return whether a place is a file of a web server, which is copied before it is read."""
    return isinstance(place, Url) and place.scheme == "https"


def is_url(text: str) -> bool:
    """Return whether a text in a job file names a place by a scheme, known or not."""
    return _URL.match(text) is not None


def place(text: str, folder: Path) -> Place:
    """Return the place that a text in a job file names; a relative path starts at this folder."""
    return Url(text) if is_url(text) else folder / text


class StoreError(StorageError):
    """A store did not answer, or failed. Facts: path, reason, advice."""

    hint = "{advice}"


class CannotStoreError(CannotCreateError):
    """A store does not let this user write an output. Facts: path, reason, advice."""

    hint = "{advice}"
