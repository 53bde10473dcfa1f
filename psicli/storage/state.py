"""The state folder: what psicli keeps on this machine between runs and while they last.

It is this user's alone and holds the ledger, and a folder a run with a file that is locked for as long as the run
lives: one that nobody holds is left over from a run that was killed, and is removed by whoever comes next. The folder
of a task outlives its run, for the next run of the same task to go on from.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, StorageError, creating, reason
from psicli.storage.files import sync_folder, wipe

_LOCK = "lock"
# The file in a task's folder that is overwritten before it is removed.
SECRETS = "bins"
_RUN_PREFIX = "run-"
_TASK_PREFIX = "task-"


def state_folder() -> Path:
    """Return where psicli keeps its state; raises CannotCreateError for a user without a home."""
    if folder := os.environ.get("PSICLI_STATE_DIR"):
        return Path(folder)
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification has relative paths ignored.
    if os.path.isabs(base):
        return Path(base) / "psicli"
    try:
        return Path.home() / ".local" / "state" / "psicli"
    except RuntimeError:
        raise CannotCreateError(path="a state folder", reason="this user has no home; set PSICLI_STATE_DIR") from None


def make_state_folder(state: Path) -> None:
    """Make the state folder if there is none, for good; raises CannotCreateError."""
    with creating(state):
        if not os.path.lexists(state):
            state.mkdir(0o700, parents=True, exist_ok=True)
            sync_folder(state.parent)


@contextmanager
def held(state: Path) -> Iterator[int]:
    """Hold the state folder against other runs for a moment; give its descriptor.

    Raises CannotCreateError if it is not there or not ours alone.
    """
    with ExitStack() as opened:
        with creating(state):
            folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened.callback(os.close, folder)
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise CannotCreateError(path=state, reason="it is open to other users; it must be ours alone (chmod 700)")
        with creating(state):
            opened.callback(os.close, _lock(state, fcntl.LOCK_EX))
        yield folder


def left_over(state: Path, *, remove: bool = False) -> list[Path]:
    """Return the folders of runs that are gone, which may be removed; raises CannotCreateError."""
    found: list[Path] = []
    if not os.path.lexists(state):
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


@contextmanager
def run_folder(state: Path) -> Iterator[Path]:
    """Give a folder of this run alone, and delete it and all in it at the end; raises CannotCreateError."""
    make_state_folder(state)
    path = state / f"{_RUN_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    with ExitStack() as undo:
        # Nobody sweeps between the making of the folder and its lock.
        with held(state), creating(state):
            path.mkdir(0o700)
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            undo.callback(os.close, _lock(path))
            failpoints.passage("spool.created")
        yield path


class TaskFolder:
    """The folder of one task in the state folder, held against other runs until it is let go or removed."""

    def __init__(self, path: Path, lock: int) -> None:
        """Use `hold`."""
        self.path = path
        self._lock = lock

    @classmethod
    def hold(cls, path: Path, *, make: bool = False) -> Self | None:
        """Return a task's folder, None if there is none or another run holds it; raises CannotCreateError."""
        if make:
            make_state_folder(path.parent)
        elif not os.path.lexists(path):
            return None
        with held(path.parent), creating(path), suppress(BlockingIOError):
            if make:
                path.mkdir(0o700, exist_ok=True)
                sync_folder(path.parent)
            # Another run may just have removed it.
            if os.path.lexists(path):
                return cls(path, _lock(path))
        return None

    @property
    def is_held(self) -> bool:
        """Whether it was neither let go nor removed."""
        return self._lock >= 0

    def let_go(self) -> None:
        """Leave the folder for another run; does nothing the second time."""
        if self.is_held:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete the folder and all in it, what is secret overwritten, and let go; raises StorageError if it stays."""
        if not self.is_held:
            return
        try:
            wipe(self.path / SECRETS)
            # Nobody makes it anew meanwhile.
            with held(self.path.parent):
                shutil.rmtree(self.path)
        except OSError as exc:
            raise StorageError(path=self.path, reason=f"it cannot be removed: {reason(exc)}") from exc
        except CannotCreateError as exc:
            raise StorageError(path=self.path, reason=exc.message) from exc
        finally:
            self.let_go()


def task_folder(state: Path, name: str) -> Path:
    """Return where a task's folder is, or would be."""
    return state / f"{_TASK_PREFIX}{name}"


def task_folders(state: Path) -> list[Path]:
    """Return the folders of tasks that there are."""
    return sorted(state.glob(f"{_TASK_PREFIX}*"))


def _lock(folder: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    """Lock a folder and return the descriptor that holds it; raises OSError, BlockingIOError where another run does."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
    except OSError:
        os.close(lock)
        raise
    return lock
