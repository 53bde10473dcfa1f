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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

from psicli import failpoints
from psicli.errors import CannotCreateError, creating
from psicli.errors import reason as reason
from psicli.files import sync_folder

_LOCK = "lock"
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
        lock = _open_lock(state / _LOCK)
        opened.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def left_over(state: Path) -> list[Path]:
    """Return the folders of runs that are gone; raises CannotCreateError."""
    return _of_the_gone(state, lambda folder: None)


def sweep(state: Path) -> list[Path]:
    """Remove the folders of runs that are gone and return them; raises CannotCreateError."""
    return _of_the_gone(state, partial(shutil.rmtree, ignore_errors=True))


def _of_the_gone(state: Path, act: Callable[[Path], object]) -> list[Path]:
    """Return the folders that no run holds, each held against all others while something is done to it."""
    if not os.path.lexists(state):
        return []
    with held(state):
        return [folder for folder in sorted(state.glob(f"{_RUN_PREFIX}*")) if _done_if_left(folder, act)]


class RunFolder(AbstractContextManager["RunFolder"]):
    """A folder of one run in the state folder, ours until remove(); raises CannotCreateError."""

    def __init__(self, state: Path) -> None:
        make_state_folder(state)
        # Nobody sweeps between the making of the folder and its lock.
        with held(state), creating(state):
            self.path = state / f"{_RUN_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
            self.path.mkdir(0o700)
            self._lock = _open_lock(self.path / _LOCK)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            failpoints.passage("spool.created")

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Delete the folder and all in it; does nothing the second time."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


class TaskFolder:
    """The folder of one task in the state folder, held against other runs until it is let go or removed."""

    def __init__(self, path: Path, lock: int) -> None:
        """Use `hold` or `make`."""
        self.path = path
        self._lock = lock

    @classmethod
    def hold(cls, path: Path) -> Self | None:
        """Return a task's folder, None if there is none or another run holds it; raises CannotCreateError."""
        if not os.path.lexists(path):
            return None
        with held(path.parent):
            return cls._held(path) if os.path.lexists(path) else None

    @classmethod
    def make(cls, path: Path) -> Self | None:
        """Make a task's folder, None if another run has it; raises CannotCreateError."""
        make_state_folder(path.parent)
        with held(path.parent):
            with creating(path):
                path.mkdir(0o700, exist_ok=True)
                sync_folder(path.parent)
            return cls._held(path)

    @classmethod
    def _held(cls, path: Path) -> Self | None:
        lock = _open_lock(path / _LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(lock)
            if isinstance(exc, BlockingIOError):
                return None
            raise CannotCreateError(path=path, reason=reason(exc)) from exc
        return cls(path, lock)

    def let_go(self) -> None:
        """Leave the folder for another run; does nothing the second time."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete the folder and all in it, and let go; raises CannotCreateError, OSError if something stays."""
        if self._lock >= 0:
            # Nobody makes it anew between the removal and the end of our lock.
            with held(self.path.parent):
                shutil.rmtree(self.path)
                self.let_go()


def task_folder(state: Path, name: str) -> Path:
    """Return where a task's folder is, or would be."""
    return state / f"{_TASK_PREFIX}{name}"


def task_folders(state: Path) -> list[Path]:
    """Return the folders of tasks that there are."""
    return sorted(state.glob(f"{_TASK_PREFIX}*"))


def _done_if_left(folder: Path, act: Callable[[Path], object]) -> bool:
    with suppress(CannotCreateError, OSError):
        lock = _open_lock(folder / _LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            act(folder)
            return True
        finally:
            os.close(lock)
    return False


def _open_lock(path: Path) -> int:
    with creating(path.parent):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
