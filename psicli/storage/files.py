"""Output files that appear complete or not at all.

Only this module uses os.replace. If the target is a symbolic link, the link stays and the file it points to is
replaced; the link is resolved once, when the AtomicFile is created. After that, all work goes through a descriptor of
the folder, so the output stays in that folder even if somebody renames it. What other users put into a folder that
others can write to is neither followed nor replaced.

A writer holds a lock on its temporary file. A temporary file without a lock was left by a killed run, and the next run
with the same target removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import os
import re
import secrets
import shlex
import stat
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, FileThereError, ForeignFileError, creating, printable, storing
from psicli.core.places import Place, Url
from psicli.storage.walk import Walk, is_foreign

logger = logging.getLogger(__name__)

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _TargetIO(io.FileIO):
    """The temporary file. A failed write raises StorageError, even if a library made the write."""

    def __init__(self, descriptor: int, target: Path) -> None:
        super().__init__(descriptor, "wb")
        self.digest = hashlib.sha256()
        self._target = target

    def write(self, data: Any, /) -> int:
        with storing(self._target, "writing"):
            failpoints.hit("output.written")
            written = super().write(data)
        self.digest.update(memoryview(data).cast("B")[:written])
        return written


class AtomicFile(contextlib.AbstractContextManager["AtomicFile"]):
    """A file that is written next to its target; publish() renames it over the target, any other exit deletes it.

    Raises CannotCreateError when it is created, StorageError later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = ""
        with contextlib.ExitStack() as undo, _creating(path):
            self._folder, self._name = _open_folder(path)
            undo.callback(os.close, self._folder)
            old = self._old_file()
            while (descriptor := self._create_locked(old)) is None:
                # Another run removed it as a leftover before it was locked; create it again.
                pass
            # The lock lasts until the last descriptor is closed, so this one keeps it after the file is closed.
            undo.callback(os.close, os.dup(descriptor))
            self._undo = undo.pop_all()
        self._raw = _TargetIO(descriptor, path)
        self.file = cast(BinaryIO, io.BufferedWriter(self._raw, 1 << 20))

    def _create_locked(self, old: os.stat_result | None) -> int | None:
        self._temporary = f".{self._name}.psicli-{secrets.token_hex(8)}.tmp"
        descriptor = os.open(self._temporary, _NEW_FILE, 0o600, dir_fd=self._folder)
        try:
            failpoints.hit("output.created")
            # The umask takes nothing away from a file that this user alone can read, or from what he has granted.
            os.fchmod(descriptor, 0o600)
            if old is not None and old.st_uid == os.geteuid():
                _grant(descriptor, old)
            if _is_locked(descriptor):
                return descriptor
        except BaseException:
            os.unlink(self._temporary, dir_fd=self._folder)
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _old_file(self) -> os.stat_result | None:
        """Return the status of the file that this one replaces, if it exists and may be replaced."""
        try:
            status = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            reason = "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
        elif is_foreign(status, os.fstat(self._folder)):
            raise ForeignFileError(path=self.path, what="it belongs to another user")
        else:
            return status
        raise CannotCreateError(path=self.path, reason=reason)

    def seal(self) -> None:
        """Sync every byte to disk and close the file; only after that is the output known to be complete."""
        if self._raw.closed:
            return
        self.file.flush()
        with storing(self.path, "writing"):
            os.fsync(self._raw.fileno())
            failpoints.hit("output.synced")
            self._raw.close()

    @property
    def sha256(self) -> str:
        """The SHA-256 digest of the file in hex, as from `sha256sum`, once it is sealed."""
        return self._raw.digest.hexdigest()

    def publish(self) -> None:
        """Rename the file over the target and sync the folder, so that it survives a crash."""
        self.seal()
        with self, storing(self.path, "writing"):
            os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._temporary = ""
            failpoints.hit("output.renamed")
            os.fsync(self._folder)
            failpoints.hit("output.kept")

    def discard(self) -> None:
        """Remove the file unless it is published; may be called again."""
        # Close the raw file, which drops the buffered data: flushing it could fail on a full disk.
        with contextlib.suppress(OSError):
            self._raw.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
            self._temporary = ""
        self._undo.close()

    def remove_left_over(self) -> None:
        """Remove the temporary files that killed runs left next to the target; files of running writers are locked."""
        pattern = re.compile(rf"\.{re.escape(self._name)}\.psicli-[0-9a-f]{{16}}\.tmp")
        for name in filter(pattern.fullmatch, os.listdir(self._folder)):
            with contextlib.suppress(OSError):
                _remove_if_left(name, self._folder)
                logger.info("removed %s, which a killed run left behind", printable(self.path.with_name(name)))

    def __exit__(self, *_: object) -> None:
        self.discard()


def create_files(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Create files with the given content and mode: all of them or none.

    Raises FileThereError if one of them already exists, CannotCreateError, StorageError.
    """
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as undo:
        for path, (octets, mode) in files.items():
            with _creating(path):
                folder, name = _open_folder(path, follow=False)
                opened.callback(os.close, folder)
                try:
                    descriptor = os.open(name, _NEW_FILE, mode, dir_fd=folder)
                except FileExistsError as exc:
                    raise FileThereError(path=path) from exc
            undo.callback(os.unlink, name, dir_fd=folder)
            with storing(path, "writing"), os.fdopen(descriptor, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(descriptor)
        undo.pop_all()


def replace_file(path: Path, octets: bytes) -> None:
    """Replace a small file atomically and durably: after a crash, either the old or the new content is there.

    Raises OSError. Only this user may have access to the folder, since the temporary file has a fixed name.
    """
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        failpoints.hit("state.writing")
        file.write(octets)
        file.flush()
        failpoints.hit("state.written")
        os.fsync(descriptor)
    failpoints.hit("state.synced")
    os.replace(temporary, path)
    failpoints.hit("state.renamed")
    sync_folder(path.parent)
    failpoints.hit("state.kept")


def save(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all; raises CannotCreateError, StorageError."""
    with AtomicFile(path) as file:
        file.file.write(f"{text}\n".encode())
        file.publish()


def append_to(path: Path) -> BinaryIO:
    """Open a file that this user alone can read, to write at its end; raises CannotCreateError.

    Refuses what is no regular file, and in a folder that others can write to what belongs to another user.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with _creating(path), contextlib.ExitStack() as opened:
        folder, name = _open_folder(path, follow=False)
        opened.callback(os.close, folder)
        file = opened.enter_context(open(os.open(name, flags, 0o600, dir_fd=folder), "ab", buffering=0))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CannotCreateError(path=path, reason="it is not a regular file")
        if is_foreign(status, os.fstat(folder)):
            raise ForeignFileError(path=path, what="it belongs to another user")
        opened.pop_all()
        os.close(folder)
        return file


def swap_file(path: Path, octets: bytes) -> None:
    """Replace a small file atomically, but not durably: after a crash of the system, it may be damaged.

    Raises OSError. Only this user may have access to the folder, since the temporary file has a fixed name.
    """
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(octets)
    os.replace(temporary, path)


def wipe(path: Path) -> None:
    """Overwrite a file with zeros and delete it, if it exists; raises OSError."""
    if not os.path.lexists(path):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    path.unlink()
    failpoints.hit("bins.wiped")


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def identity(path: Place) -> Hashable:
    """Return what all names of a file have in common, whether the file exists or not; a URL is one name."""
    if isinstance(path, Url):
        return path
    try:
        real = os.path.realpath(path)
    except UnicodeEncodeError:
        # A name that this locale cannot write is no file's.
        return path
    for there, rest in ((real, ""), os.path.split(real)):
        with contextlib.suppress(OSError):
            status = os.stat(there)
            return status.st_dev, status.st_ino, rest
    return real


def missing_folder(path: Path) -> Path | None:
    """Return the folder of an output if psicli would make it: it does not exist, but the folder above it does."""
    with contextlib.suppress(OSError, CannotCreateError), Walk(path) as walk:
        if len(walk.rest) == 2:
            return walk.at / walk.rest[0]
    return None


def make_folder(path: Path) -> Path | None:
    """Make the folder of an output durably if `missing_folder` names one, and return it; raises CannotCreateError."""
    folder = missing_folder(path)
    if folder is None:
        return None
    with creating(folder), Walk(path) as walk:
        if len(walk.rest) == 2:
            # Another process may make it at the same time.
            with contextlib.suppress(FileExistsError):
                os.mkdir(walk.rest[0], 0o700, dir_fd=walk.folder)
            walk.sync()
    return folder


def private(name: str, flags: int) -> int:
    """Open a file that only this user can read; an opener for `open`."""
    return os.open(name, flags, 0o600)


def check_writable(path: Path) -> None:
    """Check that path can be created or replaced, and leave nothing behind; raises CannotCreateError."""
    # Only an attempt is reliable: permissions do not account for read-only disks, quotas or root.
    with AtomicFile(path) as probe:
        probe.remove_left_over()


def check_replaceable(path: Path, beginning: bytes, otherwise: str) -> None:
    """Check that path is writable, and that a file there is empty or begins like this; never another file is replaced.

    otherwise: why not, for CannotCreateError. Raises StorageError, too.
    """
    check_writable(path)
    if path.exists():
        with storing(path, "reading"), open(path, "rb") as file:
            found = file.read(len(beginning))
        if found not in (b"", beginning):
            raise CannotCreateError(path=path, reason=otherwise)


def exposure(key_file: Path) -> str | None:
    """Return a warning if others can read or replace a private key, with the command that ends this; else None.

    A key that its owner shares with a group on purpose belongs to root, as do the keys of many services.
    """
    try:
        status = key_file.stat()
    except OSError:
        return None
    mode, owner, user = stat.S_IMODE(status.st_mode), status.st_uid, os.geteuid()
    if owner not in (0, user):
        fault, command = f"belongs to another user (user id {owner})", f"chown {user}"
    elif mode & 0o007:
        fault, command = f"is open to every user of this machine (mode {mode:04o})", "chmod o="
    elif mode & 0o070 if owner else mode & 0o020:
        fault, command = f"is open to its group (mode {mode:04o})", "chmod g="
    else:
        return None
    return f"the private key {printable(key_file)} {fault}: type `{command} {printable(shlex.quote(str(key_file)))}`"


def _is_locked(descriptor: int) -> bool:
    """Lock a file that was just created; return whether it still exists."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # On a file system without locks, no run removes temporary files either.
        return True
    return os.fstat(descriptor).st_nlink > 0


def _remove_if_left(name: str, folder: int) -> None:
    """Remove one of our temporary files; raises OSError if it is locked, not regular or another user's."""
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _creating(path: Path) -> Iterator[None]:
    """Do the same as `creating`, with a clearer reason for a missing folder."""
    with creating(path):
        try:
            yield
        except FileNotFoundError as exc:
            raise CannotCreateError(path=path, reason="its folder does not exist") from exc


def _grant(descriptor: int, old: os.stat_result) -> None:
    """Grant what the file that is replaced grants, to the same group."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if os.fstat(descriptor).st_gid != old.st_gid:
        try:
            os.fchown(descriptor, -1, old.st_gid)
        except OSError:
            mode &= ~0o070
    os.fchmod(descriptor, mode)


def _open_folder(path: Path, *, follow: bool = True) -> tuple[int, str]:
    """Return a descriptor of the folder of a file, and the file's name in it; raises OSError, CannotCreateError."""
    with Walk(path, follow=follow) as walk:
        if len(walk.rest) > 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        # The root folder has an empty name.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=walk.folder), (walk.rest or ["."])[0]
