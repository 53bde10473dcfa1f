"""What a task can continue from after a crash: its finished bins, a folder in the state folder.

    meta    what the task is bound to, its counts and bins; replaced as a whole, checksummed
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, reason
from psicli.exchange.worker import ORDER_SECRET_BYTES
from psicli.protocol.bins import Sizes, every_bin
from psicli.storage.files import replace_file, wipe
from psicli.storage.state import SECRETS, TaskFolder, task_folders

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
    """Something that no task may continue from; its text says why, for a log."""


@dataclass(frozen=True)
class Manifest:
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
        return Sizes(self.own_count, self.peer_count, self.bins).capacities

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

    def __init__(self, folder: TaskFolder, manifest: Manifest) -> None:
        """Use `create` or `load`."""
        self.manifest = manifest
        self._folder = folder
        self._guard = threading.RLock()
        # What each slot says without its checksum; those of bins that are not finished are missing.
        self._slots: dict[int, bytes] = {}

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Self | None:
        """Begin anew in place of whatever there was; None if that cannot be now, with a warning."""
        folder, about = None, {"task": manifest.bound_to["task"]}
        try:
            folder = TaskFolder.hold(path, make=True)
            if folder is None:
                logger.warning("another run keeps bins of this task; this one cannot be resumed", extra=about)
                return None
            for left in folder.path.iterdir():
                if left.name != "lock":
                    left.unlink()
            replace_file(folder.path / "meta", manifest.to_octets())
            return cls(folder, manifest)
        except (CannotCreateError, OSError) as exc:
            why = reason(exc) if isinstance(exc, OSError) else exc.message
            logger.warning("no bins can be kept, this task cannot be resumed: %s", why, extra=about)
            if folder is not None:
                folder.remove()
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
            saved = cls(folder, read_manifest(folder.path))
            saved._slots = read_slots(folder.path, saved.manifest)
            return saved
        except DoubtfulStateError:
            folder.remove()
            raise

    @property
    def finished(self) -> int:
        """A bit for each finished bin, the first one lowest."""
        if self.manifest.result is not None:
            return every_bin(self.manifest.bins)
        return sum(1 << number for number in self._slots)

    def is_received(self, number: int) -> bool:
        return self._slots.get(number, b"\0")[0] == RECEIVED

    def data(self) -> dict[int, bytes]:
        """Return what the slots of finished bins hold."""
        return {number: slot[1:] for number, slot in self._slots.items()}

    def put(self, number: int, data: bytes = b"", *, state: int = FINISHED) -> None:
        """Keep a bin's data, on disk before this returns."""
        slot = bytes([state]) + data
        assert len(slot) + _CHECKSUM_BYTES == self.manifest.slot_bytes
        with self._changing():
            # Too late, it must not come back: what was left to another run, and what was wiped.
            if self._folder.is_held and self.manifest.result is None:
                checked = slot + _checksum(self.manifest, number, slot)
                _write_at(self._folder.path / SECRETS, number * self.manifest.slot_bytes, checked)
                self._slots[number] = slot

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Keep that the task is done and what it came to, and nothing else."""
        with self._changing():
            if self._folder.is_held:
                manifest = replace(self.manifest, result=result)
                replace_file(self._folder.path / "meta", manifest.to_octets())
                self.manifest, self._slots = manifest, {}
                wipe(self._folder.path / SECRETS)

    def discard(self) -> None:
        """Remove all of it; raises StorageError if something stays."""
        with self._guard:
            self._folder.remove()

    def let_go(self) -> None:
        """Leave it for the next run."""
        with self._guard:
            self._folder.let_go()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the files; when that fails all of it is given up."""
        with self._guard:
            try:
                yield
            except OSError as exc:
                text = "what is kept of this task is given up, it cannot be resumed: %s"
                logger.warning(text, reason(exc), extra={"task": self.manifest.bound_to["task"]})
                self.discard()


def read_manifest(path: Path) -> Manifest:
    """Return what `meta` says; another run may be writing it now. Raises DoubtfulStateError."""
    try:
        manifest = Manifest.from_octets((path / "meta").read_bytes())
    except OSError as exc:
        raise DoubtfulStateError(f"it cannot be read: {reason(exc)}") from exc
    age = time.time() - manifest.created
    if age > MAX_AGE:
        raise DoubtfulStateError("it is more than 24 hours old")
    if age < -CLOCK_SLACK:
        raise DoubtfulStateError("it is from the future, by this machine's clock")
    return manifest


def read_slots(path: Path, manifest: Manifest) -> dict[int, bytes]:
    """Return the slots of finished bins; raises DoubtfulStateError."""
    try:
        octets = (path / SECRETS).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise DoubtfulStateError(f"it cannot be read: {reason(exc)}") from exc
    slots = {}
    for number in range(-(-len(octets) // manifest.slot_bytes)):
        slot = octets[number * manifest.slot_bytes : (number + 1) * manifest.slot_bytes]
        if any(slot):
            said = slot[:-_CHECKSUM_BYTES]
            if number >= manifest.bins or slot[-_CHECKSUM_BYTES:] != _checksum(manifest, number, said):
                raise DoubtfulStateError("it is damaged")
            slots[number] = said
    return slots


def sweep(state: Path) -> list[Path]:
    """Remove what is too old or damaged, where no run has it, and return the folders.

    Raises CannotCreateError, StorageError.
    """
    removed = []
    for folder in task_folders(state):
        try:
            read_manifest(folder)
        except DoubtfulStateError as exc:
            if held := TaskFolder.hold(folder):
                held.remove()
                logger.info("what an earlier run has left in %s is removed: %s", folder, exc)
                removed.append(folder)
    return removed


def checkpoints(state: Path) -> list[dict[str, Any]]:
    """Return what there is to continue from: folder, job, party, task, since when, how many bins of how many."""
    found = []
    for folder in task_folders(state):
        with suppress(DoubtfulStateError):
            manifest = read_manifest(folder)
            finished = manifest.bins if manifest.result is not None else len(read_slots(folder, manifest))
            since = datetime.fromtimestamp(manifest.created, UTC).isoformat(timespec="seconds")
            names = {name: manifest.bound_to[name] for name in ("job", "party", "task")}
            share = round(finished / manifest.bins, 3) if manifest.bins else 1.0
            bins = {"done": share, "bins": manifest.bins, "finished_bins": finished}
            found.append({"folder": str(folder), **names, "since": since, **bins})
    return found


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Write into a file and bring it to the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        file.seek(offset)
        while data:
            failpoints.passage("bins.writing")
            data = data[os.write(descriptor, data) :]
        os.fdatasync(descriptor)
        failpoints.passage("bins.written")


def _checksum(manifest: Manifest, number: int, slot: bytes) -> bytes:
    """Return what proves that a slot belongs to this bin of this task."""
    where = manifest.partition_sid.encode() + number.to_bytes(4, "big")
    return hashlib.sha256(where + slot).digest()[:_CHECKSUM_BYTES]
