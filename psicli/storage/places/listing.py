"""Finds the files that a file, a folder or a pattern names."""

from __future__ import annotations

from typing import NamedTuple

from psicli.core.places import Place, Url


class Found(NamedTuple):
    """A file of a folder or pattern, or a file that was named itself.

    place: where it is. name: its path below the folder, or below the part of the pattern that has no wildcards, with /
    between the names; of a file that was named itself, the last part of its path. size: [bytes]. changed: the time of
    its last change [ns], and 0 where it is not known.
    """

    place: Place
    name: str
    size: int
    changed: int


def find_files(place: Place) -> list[Found]:
    """Return all files that a place names, in the order of their names.

    Raises InputMissingError, StorageError.
    """
    if isinstance(place, Url):
        from psicli.storage.places.remote import list_files

        return list_files(place)
    raise NotImplementedError
