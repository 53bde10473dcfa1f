"""Object stores, as pyarrow's file systems show them."""

from __future__ import annotations

from psicli.core.places import Url
from psicli.storage.places.listing import Found


def list_files(url: Url) -> list[Found]:
    """Return the files that a URL names, in the order of their names: a file, a folder or a pattern.

    Raises InputMissingError, StorageError.
    """
    raise NotImplementedError
