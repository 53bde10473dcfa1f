"""What a task can continue from after a crash: its finished bins, a folder in the state folder.

    meta    what the task is bound to and how it is cut; replaced as a whole, checksummed
    bins    a slot of one size for each bin, checksummed: a receiver's holds which own items matched, and in a broadcast
            the bits for the peer; a sender's that it has answered, and in a broadcast its secret order

There is no scalar, point or token in it, and its size depends on the counts alone. What is not exactly what was written
is not used: DoubtfulStateError says why. Writing it never fails a run: what cannot be kept is given up, with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from psicli import failpoints
from psicli.errors import CannotCreateError, StorageError
from psicli.files import replace_file
from psicli.protocol.bins import capacity
from psicli.state import TaskFolder, reason
from psicli.worker import ORDER_SECRET_BYTES

logger = logging.getLogger(__name__)

# How old it may be, by the clock [s].
MAX_AGE = 24 * 3600.0
# A clock may be put back a little [s].
CLOCK_SLACK = 300.0

_MAGIC = b"psicli finished bins 1\n"
_CHECKSUM_BYTES = 8
# The first byte of a slot. A sender's bin is answered first, and received when the receiver says so.
FINISHED, RECEIVED = 1, 2


class DoubtfulStateError(Exception):
    """Something kept that no task may continue from; its text says why, for a log."""


@dataclass(frozen=True)
class Facts:
    """What `meta` says. bound_to: what must be the same in the next run; created: Unix time [s].

    result: what the report says of the task, once it is done on this side.
    """

    bound_to: Mapping[str, Any]
    created: float
    partition_sid: str
    own_count: int
    peer_count: int
    bins: int
    receives: bool
    broadcast: bool
    result: Mapping[str, Any] | None = None

    @property
    def capacities(self) -> tuple[int, int]:
        """To how many items each bin is padded, own and the peer's."""
        bins = max(self.bins, 1)
        return capacity(self.own_count, bins), capacity(self.peer_count, bins)

    @property
    def slot_bytes(self) -> int:
        """What a bin takes on disk, its first byte and checksum included [bytes]."""
        own, peer = (-(-each // 8) for each in self.capacities)
        secret = ORDER_SECRET_BYTES * self.broadcast
        return 1 + (own + peer * self.broadcast if self.receives else secret) + _CHECKSUM_BYTES

    def to_octets(self) -> bytes:
        """Return what the file holds: a first line, one line of JSON, and the SHA-256 of both."""
        octets = _MAGIC + json.dumps(asdict(self)).encode() + b"\n"
        return octets + hashlib.sha256(octets).hexdigest().encode() + b"\n"

    @classmethod
    def from_octets(cls, octets: bytes) -> Self:
        """Read it back; raises DoubtfulStateError unless it is exactly what was written."""
        whole, checksum = octets[:-65], octets[-65:]
        if not whole.startswith(_MAGIC) or checksum != hashlib.sha256(whole).hexdigest().encode() + b"\n":
            raise DoubtfulStateError("it is damaged")
        try:
            return cls(**json.loads(whole.removeprefix(_MAGIC)))
        except (ValueError, TypeError) as exc:
            raise DoubtfulStateError("it is of another version of psicli") from exc


class FinishedBins:
    """The finished bins of a task under way, or the result of one that is done. For any thread."""

    def __init__(self, folder: TaskFolder, facts: Facts) -> None:
        """Use `create` or `load`."""
        self.facts = facts
        self._folder = folder
        # Whether it was left to another run or removed.
        self._over = False
        self._guard = threading.RLock()
        # What each slot says without its checksum; those of bins that are not finished are missing.
        self._slots: dict[int, bytes] = {}

    @classmethod
    def create(cls, path: Path, facts: Facts) -> Self | None:
        """Begin to keep bins in place of whatever there was; None if that cannot be now, with a warning."""
        folder, about = None, {"task": facts.bound_to["task"]}
        try:
            folder = TaskFolder.make(path)
            if folder is None:
                logger.warning("another run keeps bins of this task; this one cannot be resumed", extra=about)
                return None
            for left in folder.path.iterdir():
                if left.name != "lock":
                    left.unlink()
            replace_file(folder.path / "meta", facts.to_octets())
            return cls(folder, facts)
        except (CannotCreateError, OSError) as exc:
            why = reason(exc) if isinstance(exc, OSError) else exc.message
            logger.warning("no bins can be kept, this task cannot be resumed: %s", why, extra=about)
            if folder is not None:
                remove(folder)
            return None

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return what an earlier run has left, None if there is nothing.

        Raises DoubtfulStateError when it has removed something, CannotCreateError, StorageError.
        """
        folder = TaskFolder.hold(path)
        if folder is None:
            return None
        try:
            kept = cls(folder, look(folder.path))
            kept._slots = read_slots(folder.path, kept.facts)
            return kept
        except DoubtfulStateError:
            remove(folder)
            raise

    @property
    def finished(self) -> int:
        """A bit for each finished bin, the first one lowest."""
        if self.facts.result is not None:
            return (1 << self.facts.bins) - 1
        return sum(1 << number for number in self._slots)

    def is_received(self, number: int) -> bool:
        return self._slots.get(number, b"\0")[0] == RECEIVED

    def data(self) -> dict[int, bytes]:
        """Return what the slots of finished bins hold."""
        return {number: slot[1:] for number, slot in self._slots.items()}

    def put(self, number: int, data: bytes = b"", *, state: int = FINISHED) -> None:
        """Keep a bin's data, on disk before this returns."""

        def write() -> None:
            slot = bytes([state]) + data
            assert len(slot) + _CHECKSUM_BYTES == self.facts.slot_bytes
            with self._guard:
                if self._over or self.facts.result is not None:
                    # Too late: what was left or wiped must not come back.
                    return
                _write_at(
                    self._folder.path / "bins",
                    number * self.facts.slot_bytes,
                    slot + _checksum(self.facts, number, slot),
                )
                self._slots[number] = slot

        self._write(write)

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Keep that the task is done and what it came to, and nothing else."""

        def write() -> None:
            with self._guard:
                facts = replace(self.facts, result=result)
                replace_file(self._folder.path / "meta", facts.to_octets())
                self.facts, self._slots = facts, {}
                _wipe(self._folder.path / "bins")

        self._write(write)

    def discard(self) -> None:
        """Remove all of it; raises StorageError if something stays."""
        with self._guard:
            if not self._over:
                self._over = True
                remove(self._folder)

    def let_go(self) -> None:
        """Leave it for the next run."""
        with self._guard:
            self._over = True
            self._folder.let_go()

    def _write(self, work: Callable[[], None]) -> None:
        """Change the files; when that fails nothing is kept any more."""
        if self._over:
            return
        try:
            work()
        except OSError as exc:
            if not self._over:
                text = "what is kept of this task is given up, it cannot be resumed: %s"
                logger.warning(text, reason(exc), extra={"task": self.facts.bound_to["task"]})
                self.discard()


def look(path: Path) -> Facts:
    """Return what `meta` says; another run may be writing it now. Raises DoubtfulStateError."""
    try:
        facts = Facts.from_octets((path / "meta").read_bytes())
    except OSError as exc:
        raise DoubtfulStateError(f"it cannot be read: {reason(exc)}") from exc
    age = time.time() - facts.created
    if age > MAX_AGE:
        raise DoubtfulStateError("it is more than 24 hours old")
    if age < -CLOCK_SLACK:
        raise DoubtfulStateError("it is from the future, by this machine's clock")
    return facts


def read_slots(path: Path, facts: Facts) -> dict[int, bytes]:
    """Return the slots of finished bins; raises DoubtfulStateError."""
    try:
        octets = (path / "bins").read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise DoubtfulStateError(f"it cannot be read: {reason(exc)}") from exc
    slots = {}
    for number in range(-(-len(octets) // facts.slot_bytes)):
        slot = octets[number * facts.slot_bytes : (number + 1) * facts.slot_bytes]
        if any(slot):
            said = slot[:-_CHECKSUM_BYTES]
            if number >= facts.bins or slot[-_CHECKSUM_BYTES:] != _checksum(facts, number, said):
                raise DoubtfulStateError("it is damaged")
            slots[number] = said
    return slots


def remove(folder: TaskFolder) -> None:
    """Remove a task's folder and all in it, secrets overwritten; raises StorageError if something stays."""
    try:
        _wipe(folder.path / "bins")
        folder.remove()
    except OSError as exc:
        raise StorageError(path=folder.path, reason=f"it cannot be removed: {reason(exc)}") from exc
    except CannotCreateError as exc:
        raise StorageError(path=folder.path, reason=exc.message) from exc


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Write into a file and bring it to the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            failpoints.passage("bins.writing")
            done = os.pwrite(descriptor, view, offset)
            offset, view = offset + done, view[done:]
        os.fdatasync(descriptor)
        failpoints.passage("bins.written")
    finally:
        os.close(descriptor)


def _wipe(path: Path) -> None:
    """Overwrite a file and delete it; raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()
    failpoints.passage("bins.wiped")


def _checksum(facts: Facts, number: int, slot: bytes) -> bytes:
    """Return what proves that a slot belongs to this bin of this task."""
    where = facts.partition_sid.encode() + number.to_bytes(4, "big")
    return hashlib.sha256(where + slot).digest()[:_CHECKSUM_BYTES]
