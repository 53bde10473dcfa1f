"""The state folder: the files that psicli keeps on this machine during runs and between them.

Only this user has access to it. It holds the ledger, one folder for each run and one for each resumable task. A run
locks a file in its folder; a run folder without a lock was left by a killed run, and the next run removes it. The
folder of a task stays after its run, so that the next run can resume the task.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from psicli.core.errors import CannotCreateError, StateFolderError, StorageError, creating, printable, reason
from psicli.storage.files import sync_folder, wipe

_LOCK = "lock"
# The file in a task's folder that is overwritten before it is deleted.
SECRETS = "bins"
_RUN_PREFIX = "run-"
_TASK_PREFIX = "task-"
SKETCHES_PREFIX = "sketches-"


def state_folder() -> Path:
    """Return the path of the state folder; raises CannotCreateError for a user without a home folder."""
    if folder := os.environ.get("PSICLI_STATE_DIR"):
        # A service file or a quoted value has a ~ that no shell has expanded.
        return Path(os.path.expanduser(folder))
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification says to ignore relative paths.
    if os.path.isabs(base):
        return Path(base) / "psicli"
    try:
        return Path.home() / ".local" / "state" / "psicli"
    except RuntimeError:
        why = "this user has no home folder; set PSICLI_STATE_DIR"
        raise CannotCreateError(path="the state folder", reason=why) from None


def make_state_folder(state: Path) -> None:
    """Create the state folder durably if it does not exist; raises CannotCreateError."""
    with creating(state):
        if not os.path.lexists(state):
            state.mkdir(0o700, parents=True, exist_ok=True)
            sync_folder(state.parent)


@contextmanager
def held(state: Path) -> Iterator[int]:
    """Lock the state folder against other runs for a moment; yield its descriptor.

    Raises CannotCreateError if it does not exist, and StateFolderError if it is not this user's alone.
    """
    with ExitStack() as opened:
        with creating(state):
            folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        _check_ours_alone(state, folder)
        with creating(state):
            opened.callback(os.close, _lock(state, fcntl.LOCK_EX))
        yield folder


def _check_ours_alone(state: Path, folder: int) -> None:
    """Close an empty folder of this user to others; raises StateFolderError for any other that others have access to.

    As long as only this user could write to it, nobody can have put a file there.
    """
    status = os.fstat(folder)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        advice = "Set PSICLI_STATE_DIR to a folder of your own."
        raise StateFolderError(path=state, reason="it belongs to another user", advice=advice)
    if not mode & 0o077:
        return
    if mode & 0o022 or os.listdir(folder):
        advice = f"Run `chmod 700 {printable(shlex.quote(str(state)))}`, or set PSICLI_STATE_DIR to another folder."
        raise StateFolderError(path=state, reason="other users have access to it", advice=advice)
    with creating(state):
        os.fchmod(folder, 0o700)


def left_over(state: Path, *, remove: bool = False) -> list[Path]:
    """Return the folders that killed runs left behind, and delete them if `remove`; raises CannotCreateError."""
    found: list[Path] = []
    with creating(state):
        try:
            os.lstat(state)
        except (FileNotFoundError, NotADirectoryError):
            return found
    with held(state):
        for folder in sorted(state.glob(f"{_RUN_PREFIX}*")):
            with suppress(OSError):
                lock = _lock(folder)
                found.append(folder)
                if remove:
                    shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
    return found


def running(state: Path) -> list[Path]:
    """Return the folders of runs that have not ended; raises CannotCreateError."""
    if not os.path.lexists(state):
        return []
    with held(state):
        return [folder for folder in sorted(state.glob(f"{_RUN_PREFIX}*")) if is_locked(folder)]


def is_locked(folder: Path) -> bool:
    """Return whether the run that made a run folder still runs. The caller holds the state folder."""
    with suppress(OSError):
        try:
            os.close(_lock(folder))
        except BlockingIOError:
            return True
    return False


@contextmanager
def run_folder(state: Path) -> Iterator[Path]:
    """Yield a new folder for this run, and delete it with its content at the end; raises CannotCreateError."""
    make_state_folder(state)
    path = state / f"{_RUN_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    with ExitStack() as undo:
        # The lock on the state folder keeps other runs from removing this folder before it is locked.
        with held(state), creating(state):
            path.mkdir(0o700)
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            undo.callback(os.close, _lock(path))
        yield path


class TaskFolder:
    """The folder of one task in the state folder, locked against other runs until it is released or removed."""

    def __init__(self, path: Path, lock: int) -> None:
        """Use `hold` instead."""
        self.path = path
        self._lock = lock

    @classmethod
    def hold(cls, path: Path, *, make: bool = False) -> Self | None:
        """Lock and return a task's folder, or None if it does not exist or another run holds it.

        make: create it if it does not exist. Raises CannotCreateError.
        """
        if make:
            make_state_folder(path.parent)
        elif not os.path.lexists(path):
            return None
        with held(path.parent), creating(path), suppress(BlockingIOError):
            if make:
                path.mkdir(0o700, exist_ok=True)
                sync_folder(path.parent)
            # Another run may have removed it just now.
            if os.path.lexists(path):
                return cls(path, _lock(path))
        return None

    @property
    def is_held(self) -> bool:
        """Whether the folder is still locked, that is, neither released nor removed."""
        return self._lock >= 0

    def let_go(self) -> None:
        """Release the folder for other runs; may be called again."""
        if self.is_held:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Wipe the secrets, delete the folder and release it; raises StorageError if it cannot be deleted."""
        if not self.is_held:
            return
        try:
            wipe(self.path / SECRETS)
            # The lock on the state folder keeps other runs from creating it again meanwhile.
            with held(self.path.parent):
                shutil.rmtree(self.path)
        except OSError as exc:
            raise StorageError(path=self.path, reason=f"cannot delete this folder: {reason(exc)}") from exc
        except CannotCreateError as exc:
            raise StorageError(path=self.path, reason=exc.message) from exc
        finally:
            self.let_go()


def task_folder(state: Path, name: str) -> Path:
    """Return the path of a task's folder, whether it exists or not."""
    return state / f"{_TASK_PREFIX}{name}"


def task_folders(state: Path) -> list[Path]:
    """Return the existing task folders."""
    return sorted(state.glob(f"{_TASK_PREFIX}*"))


def has_traces(state: Path) -> bool:
    """Whether earlier runs, which have begun in a ledger, left something that psicli keeps for later ones."""
    return bool(task_folders(state)) or any(state.glob(f"{SKETCHES_PREFIX}*"))


def _lock(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    """Lock a folder and return the descriptor that holds the lock.

    Raises OSError, and BlockingIOError if another run holds the lock.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
    except OSError:
        os.close(lock)
        raise
    return lock
