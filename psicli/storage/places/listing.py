"""Finds the files that a file, a folder or a pattern names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from psicli.core.errors import InputMissingError, printable, storing
from psicli.core.formats import is_format
from psicli.core.places import Place, Url

_WILD = re.compile(r"[*?\[]")
_PIECE = re.compile(r"\[(?P<not>!?)(?P<set>\]?[^\]]*)\]|.", re.DOTALL)
# In so many ways links may lead to a folder: links between folders multiply them.
_MOST_WAYS = 20
_ADVICE = "Check input_path in the job file; relative paths start at the job file's folder."


# The device and the inode of a file or a folder.
_Inode = tuple[int, int]


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
    """Return all files that a place names, in the order of the bytes of their names.

    Raises InputMissingError, StorageError.
    """
    if isinstance(place, Url):
        # Imported late, because a run on local files does not need these libraries.
        from psicli.storage.places.remote import list_files

        return list_files(place)
    base, pattern = split_pattern(place)
    with storing(place, "reading"):
        if not pattern and not is_folder(base):
            status = os.stat(base) if os.path.isfile(base) else None
            return [] if status is None else [Found(base, base.name, status.st_size, status.st_mtime_ns)]
        if not base.is_dir():
            fault = f"the folder {printable(base)} does not exist"
            raise InputMissingError(place=printable(place), fault=fault, advice=_ADVICE)
        fits = fitting(pattern)
        named = [each for each in _Walk(pattern).below(base) if fits(each[0].name)]
        named.sort(key=lambda each: os.fsencode(each[0].name))
        _check_distinct(named)
        return [found for found, _ in named]


def is_pattern(path: Path) -> bool:
    """Return whether a path of this machine has wildcards that are not part of the names of a folder or a file."""
    return bool(split_pattern(path)[1])


def names_many(place: Place) -> bool:
    """Return whether a place is a pattern or a folder; without asking a store, a URL that names no format is one."""
    if isinstance(place, Url):
        return "*" in place.text or "[" in place.text or "." not in place.name
    return is_pattern(place) or is_folder(place)


def is_folder(path: Path) -> bool:
    """Return whether a path of this machine is a folder, or will be one: a name that is not there and has no format."""
    return os.path.isdir(path) or not (os.path.exists(path) or is_format(path.name))


def split_pattern(path: Path) -> tuple[Path, Sequence[str]]:
    """Return the folder in which a pattern starts, and the names with wildcards below it; none for other paths."""
    parts = path.parts
    for index, part in enumerate(parts):
        # A folder or a file may have such a name, above all the folder of the job file.
        if _WILD.search(part) and not os.path.lexists(Path(*parts[: index + 1])):
            return Path(*parts[:index]), parts[index:]
    return path, ()


def covers(place: Place, path: Place) -> bool:
    """Return whether a folder or a pattern names a file, whether that exists or not."""
    if isinstance(place, Url) or isinstance(path, Url):
        return isinstance(place, Url) and isinstance(path, Url) and _covers_url(place.text, path.text)
    base, pattern = split_pattern(place)
    if not pattern and not is_folder(base):
        return False
    folder, file = os.path.realpath(base), os.path.join(os.path.realpath(path.parent), path.name)
    return file.startswith(f"{folder.rstrip('/')}/") and fitting(pattern)(os.path.relpath(file, folder))


def _covers_url(text: str, path: str) -> bool:
    """Return whether a URL, taken for a folder or a pattern, names another one."""
    parts = text.rstrip("/").split("/")
    first = next((index for index, part in enumerate(parts) if "*" in part or "[" in part), len(parts))
    base = "/".join(parts[:first]) + "/"
    return path.startswith(base) and fitting(parts[first:])(path.removeprefix(base))


def fitting(pattern: Sequence[str]) -> Callable[[str], bool]:
    """Return whether a path below the base fits a pattern, as a file or below a folder that fits."""
    if not pattern:
        return _is_shown
    texts = ["(?:[^/]+/)*" if part == "**" else f"{_expression(part)}/" for part in pattern]
    whole = re.compile("".join(texts).removesuffix("/") + ("[^/]+" if pattern[-1] == "**" else "") + "(?P<below>/.+)?")
    # Names that begin with these are named on purpose.
    known = any(part.startswith((".", "_")) for part in pattern)

    def fits(name: str) -> bool:
        return whole.fullmatch(name) is not None and (known or _is_shown(name))

    return fits


def _expression(part: str) -> str:
    """Return the regular expression of one name in a pattern: * and ? stand for any characters, [] for one of some."""
    pieces = [""]
    for wild in _PIECE.finditer(part):
        if wild[0] == "*":
            pieces.append("")
        else:
            pieces[-1] += _one_character(wild)
    first, *rest = pieces
    if not rest:
        return first
    # What a star leaves is looked for once: to try all places for all stars takes for ever.
    return first + "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1]) + f"[^/]*{rest[-1]}"


def _one_character(wild: re.Match[str]) -> str:
    if wild["set"] is None:
        return "[^/]" if wild[0] == "?" else re.escape(wild[0])
    members = re.sub(r"([\\\[^&~|])", r"\\\1", wild["set"])
    expression = f"(?!/)[{'^' if wild['not'] else ''}{members}]"
    try:
        re.compile(expression)
    except re.error:
        # As in a shell, what is no set stands for itself.
        return re.escape(wild[0])
    return expression


def _is_shown(name: str) -> bool:
    """Return whether a path has no hidden part: Spark and Hive hide what they need themselves."""
    return not any(part.startswith((".", "_")) for part in name.split("/")) and not name.endswith(".crc")


class _Walk:
    """Finds the files in a folder and its sub-folders, also where links lead; a link to a folder above is left out."""

    def __init__(self, pattern: Sequence[str]) -> None:
        self._pattern = pattern
        self._visits: Counter[_Inode] = Counter()

    def below(
        self, folder: Path, name: str = "", above: frozenset[_Inode] = frozenset()
    ) -> Iterator[tuple[Found, _Inode]]:
        """Yield the files with what tells each from all others, in any order."""
        here = _inode(os.stat(folder))
        if here in above:
            return
        self._visits[here] += 1
        if self._visits[here] > _MOST_WAYS:
            fault = f"links lead to it in more than {_MOST_WAYS} ways"
            raise InputMissingError(place=printable(folder), fault=fault, advice="Remove the links.")
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{name}{entry.name}"
                if entry.is_dir():
                    # Without sub-folders in the pattern, nothing below a hidden folder fits.
                    if self._pattern or _is_shown(path):
                        yield from self.below(folder / entry.name, f"{path}/", above | {here})
                    continue
                # What is gone by now was not there.
                with suppress(FileNotFoundError):
                    found = entry.stat()
                    yield Found(folder / entry.name, path, found.st_size, found.st_mtime_ns), _inode(found)


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _check_distinct(found: Sequence[tuple[Found, _Inode]]) -> None:
    """Refuse a file that has two names, because each of its rows would count twice; raises InputMissingError."""
    first: dict[_Inode, Found] = {}
    for each, inode in found:
        other = first.setdefault(inode, each)
        if other is not each:
            raise InputMissingError(
                place=printable(each.place),
                fault=f"it is the same file as {printable(other.place)}, so each of its rows would come twice",
                advice="Remove one of the links, or leave it out with a pattern.",
            )
