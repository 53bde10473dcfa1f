"""The state folder: what psicli keeps on this machine between runs and while they last.

It is this user's alone and holds the ledger, and a folder a run with a file that is locked for as long as the run
lives: one that nobody holds is left over from a run that was killed, and is removed by whoever comes next.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

from psicli import failpoints
from psicli.errors import CannotCreateError

_LOCK = "lock"
_RUN_PREFIX = "run-"


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
    try:
        if not os.path.lexists(state):
            state.mkdir(0o700, parents=True, exist_ok=True)
            _sync(state.parent)
    except OSError as exc:
        raise CannotCreateError(path=state, reason=reason(exc)) from exc


@contextmanager
def held(state: Path) -> Iterator[int]:
    """Hold the state folder against other runs for a moment; give its descriptor.

    Raises CannotCreateError if it is not there or not ours alone.
    """
    try:
        folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise CannotCreateError(path=state, reason=reason(exc)) from exc
    try:
        status = os.fstat(folder)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise CannotCreateError(path=state, reason="it is open to other users; it must be ours alone (chmod 700)")
        lock = _open_lock(state / _LOCK)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(lock)
    finally:
        os.close(folder)


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


class RunFolder:
    """A folder of one run in the state folder, ours until remove(); raises CannotCreateError."""

    def __init__(self, state: Path) -> None:
        make_state_folder(state)
        # Nobody sweeps between the making of the folder and its lock.
        with held(state):
            try:
                self.path = state / f"{_RUN_PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
                self.path.mkdir(0o700)
                self._lock = _open_lock(self.path / _LOCK)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                failpoints.passage("spool.created")
            except OSError as exc:
                raise CannotCreateError(path=state, reason=reason(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Delete the folder and all in it; does nothing the second time."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def reason(exc: OSError) -> str:
    """Return why the system refused, as it stands in a sentence."""
    return (exc.strerror or "unknown").lower()


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
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise CannotCreateError(path=path.parent, reason=reason(exc)) from exc


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
