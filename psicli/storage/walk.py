"""A walk along a path that follows no symbolic link of another user in a folder that others can write to.

Linux can do the same (fs.protected_symlinks), but not every system is set to it. Every step goes through a descriptor
of the folder that it starts in, so nobody can exchange a part of the path after it was checked.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path

from psicli.core.errors import ForeignFileError

# As many links as Linux follows.
_MOST_LINKS = 40
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Walk(AbstractContextManager["Walk"]):
    """The longest part of a path that exists, without its last component.

    folder, at: a descriptor and the path of the last folder. rest: what follows it, from the first component that does
    not exist; only the last component of the path, if all its folders exist. Raises OSError, ForeignFileError.
    """

    def __init__(self, path: Path, *, follow: bool = True) -> None:
        """follow: whether to follow a link that is the last component."""
        self._path = path
        self._links = 0
        self.at = Path("/" if path.is_absolute() else os.getcwd())
        self.folder = os.open("/" if path.is_absolute() else ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.rest = [*_components(str(path))]
        try:
            while self.rest and self._step(follow=follow):
                pass
        except BaseException:
            os.close(self.folder)
            raise

    def _step(self, *, follow: bool) -> bool:
        """Go on by one component; return whether the walk is not over."""
        name = self.rest[0]
        is_last = len(self.rest) == 1
        try:
            status = os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(status.st_mode) and (follow or not is_last):
            self._follow(name, status)
            return True
        if is_last and name != "..":
            return False
        self._enter(os.open(name, _FOLDER, dir_fd=self.folder))
        self.at = self.at.parent if name == ".." else self.at / name
        del self.rest[0]
        return True

    def _follow(self, name: str, link: os.stat_result) -> None:
        if is_foreign(link, os.fstat(self.folder)):
            is_whole = self.rest == [name] and not self._links
            what = "it is" if is_whole else f"it leads through {self.at / name},"
            raise ForeignFileError(path=self._path, what=f"{what} a symbolic link of another user")
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(name, dir_fd=self.folder)
        if target.startswith("/"):
            self._enter(os.open("/", _FOLDER))
            self.at = Path("/")
        self.rest[:1] = _components(target)

    def _enter(self, folder: int) -> None:
        os.close(self.folder)
        self.folder = folder

    def sync(self) -> None:
        """Sync the entries of the folder to disk."""
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.folder)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def __exit__(self, *_: object) -> None:
        os.close(self.folder)


def is_foreign(status: os.stat_result, folder: os.stat_result) -> bool:
    """Return whether another user may have put a file or link into its folder to mislead this one.

    The owner of a folder can write to it, whatever its mode says now. A folder of another user may itself lie in a
    shared one: whoever names it trusts its owner with the output, but with no other file.
    """
    trusted = (os.geteuid(), 0)
    is_shared = folder.st_uid not in trusted or folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(is_shared) and status.st_uid not in trusted


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]
