"""Locks that keep two runs of a user from sharing a session port, with a record of the holder that every user can read.

Each user has a folder for locks that nobody else can write to. A lock is two files in it:

    NAME.lock   A flock on this file decides. Only its owner can open it, and it stays empty. The kernel releases the
                lock when its holder ends, however that happens, so no lock is ever stale.
    NAME.json   The record: who holds the lock, since when and how far. It is for people, and is untrusted text.

A holder removes both files before it releases the lock. A run that locks a file that was removed meanwhile tries again.
A killed run leaves its files, and the next run with that lock takes them over.

The listener locks its port; the dialer locks its party together with the address that it dials. Between users only the
bind decides who gets the port, so nothing that another user puts into a shared folder blocks a run. The record ends
with the connection and says nothing about the steps after the exchange: their duration depends on the matches. The
later steps are recorded in the state folder, for this user's `psicli status`.

A run needs this module in its first second, so it imports neither grpc nor pyarrow.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import pwd
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from typing import Any

from psicli.core import errors, failpoints, signals
from psicli.core.errors import PsicliError, printable, shown_name
from psicli.core.records import dataclass
from psicli.storage.state import make_state_folder, run_folder, running, state_folder

logger = logging.getLogger(__name__)

# Each user's folder for locks is in the first of these that works, or else in the state folder. They depend on no
# variable, because a run from cron must find the locks of a run from a shell.
SHARED_FOLDERS = (Path("/run/lock"), Path("/tmp"))
# The pause between two attempts of a run that waits for a lock or port [s].
RETRY_INTERVAL = 0.1
WAITING_LINE_INTERVAL = 60.0
# The most that is read from a record [bytes].
MAX_RECORD_BYTES = 4096
# Records are padded to this size, so that a short record never leaves the end of a longer one readable [bytes].
RECORD_BYTES = 1024
# How often a record of this user is read until it is whole, and the pause before each attempt but the first two [s].
_ATTEMPTS, _ATTEMPT_INTERVAL = 20, 0.002
# How many entries of a shared folder, and how many holders of one user, are read at most: anybody can fill them. A
# killed run leaves its record, so a folder may have many more records than holders.
MAX_ENTRIES, MAX_RECORDS, MAX_HOLDERS = 50_000, 10_000, 100

_WAITING = "waiting"
# The phases that a record names. Their times do not depend on the matches.
_PUBLIC = {_WAITING, "starting", "checking", "reading", "exchanging"}
OWN_RECORD = "record.json"
_NAME_OF_FOLDER = re.compile(r"psicli-(0|[1-9][0-9]{0,9})")
# Non-blocking: opening a FIFO could block forever.
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Holder:
    """The holder of a lock, as it describes itself; the user is the owner of the record."""

    job: str
    party: str
    where: str
    pid: int
    user: str
    since: str
    task: str = ""
    phase: str = _WAITING
    percent: int = 0

    def __str__(self) -> str:
        return f"job {self.job} of {self.party} (pid {self.pid}, {self.user}, since {self.since})"


class PortLock(AbstractContextManager["PortLock"]):
    """A lock of this user. Without a name, it is a lock that nobody else wants or sees."""

    def __init__(self, name: str = "", holder: Holder | None = None) -> None:
        self._name = name
        # Every thread of a run may update the record.
        self._guard = threading.Lock()
        self._holder = holder
        self._folder, self._lock, self._record = -1, -1, -1
        # The record for this user alone, in a folder that the first later phase makes.
        self._own_record = -1
        self._own_folder = ExitStack()
        if name:
            self._folder = _own_lock_folder(name)

    @property
    def is_usable(self) -> bool:
        """Whether there is a folder for the lock."""
        return self._folder >= 0

    def try_acquire(self) -> bool:
        """Acquire the lock if no other run of this user has it, and return whether that worked; raises OSError."""
        while True:
            lock = _open_lock(self._name, self._folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as exc:
                os.close(lock)
                if isinstance(exc, BlockingIOError):
                    return False
                raise
            if os.fstat(lock).st_nlink:
                break
            # Its last holder has removed it just now.
            os.close(lock)
        self._lock = lock
        with suppress(OSError):
            self._record = self._create_record()
        return True

    def _create_record(self) -> int:
        """Create the record. It is locked before other users can open it, so none of them can hold its lock."""
        name = f"{self._name}.json"
        # A killed run has left it.
        _unlink(name, self._folder)
        record = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=self._folder)
        try:
            # Waits for `psicli status` of this user, which tests the lock for a moment.
            fcntl.flock(record, fcntl.LOCK_EX)
            os.pwrite(record, _to_octets(self._holder), 0)
            os.fchmod(record, 0o644)
        except OSError:
            os.close(record)
            raise
        return record

    def holder(self) -> Holder | None:
        """Return who holds the lock, or None if its record cannot be read."""
        return _read_record(f"{self._name}.json", self._folder)

    def update(self, task: str, phase: str, percent: int) -> None:
        """Record the progress of the holder, if it has changed: for all users, or for this user alone."""
        with self._guard:
            if self._holder is None:
                return
            holder = replace(self._holder, task=task, phase=phase, percent=percent)
            if holder == self._holder:
                return
            self._holder = holder
            # A record that cannot be written must not fail the run.
            with suppress(OSError, PsicliError):
                if phase not in _PUBLIC and self._own_record < 0:
                    path = self._own_folder.enter_context(run_folder(state_folder())) / OWN_RECORD
                    self._own_record = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600)
                    self._own_folder.callback(os.close, self._own_record)
                for record in (self._record if phase in _PUBLIC else -1, self._own_record):
                    if record >= 0:
                        os.pwrite(record, _to_octets(holder), 0)

    def release(self) -> None:
        """Remove the record, then release the lock; may be called again."""
        with self._guard, ExitStack() as undo:
            for descriptor in (self._folder, self._lock, self._record):
                if descriptor >= 0:
                    undo.callback(os.close, descriptor)
            # The files belong to the holder of the lock.
            if self._lock >= 0:
                undo.callback(_unlink, f"{self._name}.lock", self._folder)
                undo.callback(_unlink, f"{self._name}.json", self._folder)
            if self._record >= 0:
                with suppress(OSError):
                    os.ftruncate(self._record, 0)
            self._folder, self._lock, self._record = -1, -1, -1

    def __exit__(self, *_: object) -> None:
        self.release()
        with self._guard:
            self._holder, self._own_record = None, -1
            self._own_folder.close()


def port_lock(port: int) -> str:
    """Return the name of the lock on a listener's port."""
    return f"port-{port}"


def dial_lock(party: str, address: str) -> str:
    """Return the name of the lock on a party and the address that it dials."""
    return f"dial-{party}-{hashlib.sha256(address.encode()).hexdigest()[:16]}"


@contextmanager
def hold_port(job: str, party: str, host: str, port: int, timeout: float) -> Iterator[PortLock]:
    """Hold the lock of a listener's port, once the port can also be bound.

    Waits up to `timeout` [s] for both; raises LockHeldError, PortBusyError (75), BindError (78).
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # 0.0.0.0 is no address that anybody could dial.
    shown = f"port {port}" if ip_address(host).is_unspecified else where
    deadline = time.monotonic() + timeout
    with PortLock(port_lock(port), _own_holder(job, party, shown)) as lock:
        _acquire(lock, f"port {port}", deadline)
        _wait_for(lambda: _bind_failure(host, port, where), deadline)
        lock.update("", "starting", 0)
        yield lock


@contextmanager
def hold_dial(job: str, party: str, address: str, timeout: float) -> Iterator[PortLock]:
    """Hold the lock of a party and the address it dials; raises LockHeldError after `timeout` [s]."""
    deadline = time.monotonic() + timeout
    with PortLock(dial_lock(party, address), _own_holder(job, party, f"to {address}")) as lock:
        _acquire(lock, f"the connection from {party} to {address}", deadline)
        lock.update("", "starting", 0)
        yield lock


def holders() -> list[Holder]:
    """Return the holders of all locks on this machine, of all users, oldest first."""
    found: dict[tuple[str, int, str], Holder] = {}
    with ExitStack() as opened:
        for folder in _lock_folders(opened):
            with suppress(OSError), os.scandir(folder) as entries:
                names = [each.name for each in islice(entries, 2 * MAX_RECORDS) if each.name.endswith(".json")]
                valid = filter(None, (_read_record(name, folder) for name in names))
                for holder in islice(valid, MAX_HOLDERS):
                    found[holder.user, holder.pid, holder.where] = holder
    # The records of this user's runs know more, and last longer.
    with suppress(PsicliError):
        for path in running(state_folder()):
            with suppress(OSError), open(path / OWN_RECORD, "rb") as record:
                if own := _parse(record.read(MAX_RECORD_BYTES), _user(os.geteuid())):
                    found[own.user, own.pid, own.where] = own
    return sorted(found.values(), key=lambda holder: holder.since)


def _acquire(lock: PortLock, what: str, deadline: float) -> None:
    def failure() -> PsicliError | None:
        try:
            if lock.try_acquire():
                return None
        except OSError as exc:
            logger.warning("no lock on %s (%s): only the port keeps two runs apart", what, errors.reason(exc))
            return None
        return errors.LockHeldError(what=what, holder=lock.holder() or "an unknown job of this user")

    if lock.is_usable:
        _wait_for(failure, deadline)
    failpoints.hit("lock.acquired")


def _wait_for(failure: Callable[[], PsicliError | None], deadline: float) -> None:
    """Retry until there is no failure; raises the last one at the deadline, BindError immediately."""
    next_line = time.monotonic() + 1.0
    while (error := failure()) is not None:
        if time.monotonic() >= deadline or isinstance(error, errors.BindError):
            raise error
        if time.monotonic() >= next_line:
            logger.info("waiting: %s", error)
            next_line += WAITING_LINE_INTERVAL
        signals.pause(RETRY_INTERVAL)


def _bind_failure(host: str, port: int, where: str) -> PsicliError | None:
    """Bind the port and release it; return why that failed. The real bind later finds a program that came between."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # A system without IPv6 may have no such sockets.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            return errors.BindError(where=where, reason=errors.reason(exc))
        holder = _holder_of_port(port)
        return errors.LockHeldError(what=where, holder=holder) if holder else errors.PortBusyError(where=where)
    return None


def _holder_of_port(port: int) -> Holder | None:
    """Return the run of another user that says that it listens on this port."""
    with ExitStack() as opened:
        for folder in _lock_folders(opened):
            holder = _read_record(f"{port_lock(port)}.json", folder)
            if holder is not None and holder.phase != _WAITING:
                return holder
    return None


# Folders for locks -----------------------------------------------------------------------------------------------


def _own_lock_folder(name: str) -> int:
    """Return a descriptor of a folder in which this user can have a lock of this name, or -1."""
    for path in _own_folders(make=True):
        try:
            return _opened_for_lock(path, name)
        except OSError as exc:
            is_full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            # Not every machine has each of the shared folders, with room for every user.
            level = logging.WARNING if is_full or os.path.lexists(path) else logging.DEBUG
            text = "no locks in %s: %s; psicli tries the next folder, and you need do nothing"
            logger.log(level, text, printable(path), errors.reason(exc))
    logger.warning("no folder for locks can be used: only the port keeps two runs apart")
    return -1


def _own_folders(*, make: bool = False) -> Iterator[Path]:
    """Yield the folders in which this user's locks may be, the best first. make: create the state folder."""
    for shared in SHARED_FOLDERS:
        yield shared / f"psicli-{os.geteuid()}"
    # The run itself reports a state folder that it cannot use.
    with suppress(PsicliError):
        state = state_folder()
        if make:
            make_state_folder(state)
        yield state / "locks"


def _opened_for_lock(path: Path, name: str) -> int:
    """Make and open a folder for locks, and test that it has room for a lock; raises OSError."""
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        # Others may read it, and nobody else may write to it.
        os.fchmod(folder, 0o755)
        os.close(_open_lock(name, folder))
    except OSError:
        os.close(folder)
        raise
    return folder


def _lock_folders(opened: ExitStack) -> Iterator[int]:
    """Yield a descriptor of the folder of every user, this user's first; `opened` closes it.

    The name of a folder is its owner's number, so nobody can speak for another user.
    """
    owners = dict.fromkeys(_own_folders(), os.geteuid())
    for shared in SHARED_FOLDERS:
        with suppress(OSError), os.scandir(shared) as entries:
            for entry in islice(entries, MAX_ENTRIES):
                if name := _NAME_OF_FOLDER.fullmatch(entry.name):
                    owners.setdefault(shared / entry.name, int(name[1]))
    for path, owner in owners.items():
        with suppress(OSError):
            # Most names that somebody has made up end here.
            if os.lstat(path).st_uid == owner:
                folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
                opened.callback(os.close, folder)
                if os.fstat(folder).st_uid == owner:
                    yield folder


# Files -----------------------------------------------------------------------------------------------------------


def _open_lock(name: str, folder: int) -> int:
    lock = os.open(f"{name}.lock", os.O_RDWR | os.O_CREAT | _SAFE, 0o600, dir_fd=folder)
    # Some umask would keep even this user's next run from opening it.
    os.fchmod(lock, 0o600)
    return lock


def _unlink(name: str, folder: int) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _own_holder(job: str, party: str, where: str) -> Holder:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(job, party, where, os.getpid(), _user(os.geteuid()), since)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _to_octets(holder: Holder | None) -> bytes:
    facts = vars(holder) if holder else {}
    return json.dumps(facts).encode().ljust(RECORD_BYTES)


def _read_record(name: str, folder: int) -> Holder | None:
    """Return the holder that a record names, or None if nobody holds it, or it is not a valid record."""
    with suppress(OSError), ExitStack() as opened:
        record = os.open(name, os.O_RDONLY | _SAFE, dir_fd=folder)
        opened.callback(os.close, record)
        status = os.fstat(record)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.fstat(folder).st_uid:
            return None
        try:
            # A shared lock, so that two readers do not take each other for the holder.
            fcntl.flock(record, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # It may be half-written, and its holder stopped there. Other users could keep a reader waiting.
            attempts = _ATTEMPTS if status.st_uid == os.geteuid() else 2
            for attempt in range(attempts):
                if attempt > 1:
                    signals.pause(_ATTEMPT_INTERVAL)
                if holder := _parse(os.pread(record, MAX_RECORD_BYTES, 0), _user(status.st_uid)):
                    return holder
    return None


def _parse(record: bytes, user: str) -> Holder | None:
    """Parse a record, which its owner may have written in any way; return None if it is not valid."""
    try:
        values = {**json.loads(record), "user": user}
        known: dict[str, Any] = {field.name: values[field.name] for field in fields(Holder)}
        numbers: dict[str, Any] = {name: int(known.pop(name)) for name in ("pid", "percent")}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    texts: dict[str, Any] = {name: shown_name(str(value)).strip("'") for name, value in known.items()}
    return Holder(**texts, **numbers)
