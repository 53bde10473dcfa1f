"""Outputs that appear whole or not at all.

The only user of os.replace. A target that is a symbolic link is resolved once, when the AtomicFile is made: the
file it points to is replaced and the link stays. Everything after that goes through a descriptor of the folder,
so that renaming the folder meanwhile cannot lead the output elsewhere.

A temporary file is locked while its writer lives. One that nobody holds was left by a run that was killed, and goes
when the next run looks at the same target.
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
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, FileThereError, creating, storing

logger = logging.getLogger(__name__)

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _TargetIO(io.FileIO):
    """The temporary file; a write that fails is a StorageError, whoever the writer is."""

    def __init__(self, descriptor: int, target: Path) -> None:
        super().__init__(descriptor, "wb")
        self.digest = hashlib.sha256()
        self._target = target

    def write(self, data: Any, /) -> int:
        with storing(self._target, "writing"):
            failpoints.passage("output.written")
            written = super().write(data)
        self.digest.update(memoryview(data).cast("B")[:written])
        return written


class AtomicFile(contextlib.AbstractContextManager["AtomicFile"]):
    """A file written beside its target and renamed over it by publish(); left otherwise, it vanishes.

    Raises CannotCreateError on creation, StorageError later.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        target = Path(os.path.realpath(path))
        self._name = target.name
        self._temporary = ""
        with contextlib.ExitStack() as undo, _creating(path):
            self._folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._folder)
            mode = self._mode_of_target()
            while (descriptor := self._create_locked(mode)) is None:
                # Somebody took it for left over in the moment before it was locked.
                pass
            # The lock outlives the closing of the file: it ends with the last descriptor.
            undo.callback(os.close, os.dup(descriptor))
            self._undo = undo.pop_all()
        self._raw = _TargetIO(descriptor, path)
        self.file = cast(BinaryIO, io.BufferedWriter(self._raw, 1 << 20))

    def _create_locked(self, mode: int | None) -> int | None:
        self._temporary = f".{self._name}.psicli-{secrets.token_hex(8)}.tmp"
        # Never wider than the old file, not even for a moment; without an old file umask decides.
        descriptor = os.open(self._temporary, _NEW_FILE, 0o666 if mode is None else mode, dir_fd=self._folder)
        try:
            failpoints.passage("output.created")
            if mode is not None:
                os.fchmod(descriptor, mode)
            if _is_locked(descriptor):
                return descriptor
        except BaseException:
            os.unlink(self._temporary, dir_fd=self._folder)
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _mode_of_target(self) -> int | None:
        try:
            # The root of all folders has no name.
            status = os.stat(self._name or ".", dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            reason = "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
            raise CannotCreateError(path=self.path, reason=reason)
        return stat.S_IMODE(status.st_mode) & 0o777

    def seal(self) -> None:
        """Bring every byte to the disk and close the file; only then is an output known to be whole."""
        if self._raw.closed:
            return
        self.file.flush()
        with storing(self.path, "writing"):
            os.fsync(self._raw.fileno())
            failpoints.passage("output.synced")
            self._raw.close()

    @property
    def sha256(self) -> str:
        """What `sha256sum` will say of the file, once it is sealed."""
        return self._raw.digest.hexdigest()

    def publish(self) -> None:
        """Put the file in the target's place, for good."""
        self.seal()
        with self, storing(self.path, "writing"):
            os.replace(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            self._temporary = ""
            failpoints.passage("output.renamed")
            os.fsync(self._folder)
            failpoints.passage("output.kept")

    def discard(self) -> None:
        """Remove what is not published; does nothing the second time."""
        # Closing the raw file throws away what the buffer still holds, which may not fit on the disk.
        with contextlib.suppress(OSError):
            self._raw.close()
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)
            self._temporary = ""
        self._undo.close()

    def remove_left_over(self) -> None:
        """Remove what runs that were killed have left beside the target; what is being written is locked."""
        pattern = re.compile(rf"\.{re.escape(self._name)}\.psicli-[0-9a-f]{{16}}\.tmp")
        for name in filter(pattern.fullmatch, os.listdir(self._folder)):
            with contextlib.suppress(OSError):
                _remove_if_left(name, self._folder)
                logger.info("removed %s, which a run that was killed has left", self.path.with_name(name))

    def __exit__(self, *_: object) -> None:
        self.discard()


def create_files(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Create files with their content and mode, none of which may be there: all of them or none.

    Raises FileThereError, CannotCreateError, StorageError.
    """
    with contextlib.ExitStack() as undo:
        for path, (octets, mode) in files.items():
            with _creating(path):
                try:
                    descriptor = os.open(path, _NEW_FILE, mode)
                except FileExistsError as exc:
                    raise FileThereError(path=path) from exc
            undo.callback(os.unlink, path)
            with storing(path, "writing"), os.fdopen(descriptor, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(descriptor)
        undo.pop_all()


def replace_file(path: Path, octets: bytes) -> None:
    """Replace a small file of this user's own, for good: after a crash it is the old one or the new one.

    Raises OSError. The folder must be this user's alone: the temporary file has a fixed name.
    """
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        failpoints.passage("state.writing")
        file.write(octets)
        file.flush()
        failpoints.passage("state.written")
        os.fsync(descriptor)
    failpoints.passage("state.synced")
    os.replace(temporary, path)
    failpoints.passage("state.renamed")
    sync_folder(path.parent)
    failpoints.passage("state.kept")


def wipe(path: Path) -> None:
    """Overwrite a file of this user's own, if there is one, and delete it; raises OSError."""
    if not os.path.lexists(path):
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(bytes(os.fstat(descriptor).st_size))
        os.fsync(descriptor)
    path.unlink()
    failpoints.passage("bins.wiped")


def sha256_of(path: Path) -> str:
    """Return what `sha256sum` says of a file; raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Bring what a folder lists to the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Make sure that path can be created or replaced; raises CannotCreateError and leaves nothing behind."""
    # Trying is the only sure test: permissions alone do not tell of read-only disks, quotas or root.
    with AtomicFile(path) as probe:
        probe.remove_left_over()


def _is_locked(descriptor: int) -> bool:
    """Lock a file that was just made; return whether it is still there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Where there are no locks, nobody removes anything either.
        return True
    return os.fstat(descriptor).st_nlink > 0


def _remove_if_left(name: str, folder: int) -> None:
    """Remove one of our temporary files; raises OSError if it is held, or is no file of this user after all."""
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
    """As `creating`, with a plainer word for the commonest reason."""
    with creating(path):
        try:
            yield
        except FileNotFoundError as exc:
            raise CannotCreateError(path=path, reason="its folder does not exist") from exc
