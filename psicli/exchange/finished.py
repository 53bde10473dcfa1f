"""The finished bins of a task, saved in the state folder so that a later run can resume the task after a crash.

    meta    the manifest: what the task is bound to, its counts and bins; checksummed, replaced atomically
    bins    one slot of fixed size per bin, checksummed: a receiver's slot holds which of its items matched, and in a
            broadcast the bits for the peer; a sender's slot says that it has answered the bin, and in a broadcast holds
            the secret of its order

The files contain no scalar, point or token, and their size depends on the counts only. Reading refuses everything that
is not exactly what was written and raises DoubtfulStateError. Writing never fails a run: after an error the checkpoint
is dropped with a warning.
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
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from psicli.core import failpoints
from psicli.core.errors import CannotCreateError, reason
from psicli.core.records import dataclass
from psicli.exchange.worker import ORDER_SECRET_BYTES
from psicli.protocol.bins import Sizes, every_bin
from psicli.storage.files import replace_file, wipe
from psicli.storage.state import SECRETS, TaskFolder, task_folders

logger = logging.getLogger(__name__)

# The greatest age of a checkpoint [s].
MAX_AGE = 24 * 3600.0
# The clock may have been set back by this much since a checkpoint was written [s].
CLOCK_SLACK = 300.0

_MAGIC = b"psicli finished bins 1\n"
_CHECKSUM_BYTES = 8
# The first byte of a slot. A sender's slot is FINISHED once it answers, and RECEIVED once the receiver confirms.
FINISHED, RECEIVED = 1, 2


class DoubtfulStateError(Exception):
    """A checkpoint that must not be used; its text is the reason, for a log line.

    is_news: False if the run that left it ended well, so that nobody expects to resume it.
    """

    def __init__(self, why: str, *, is_news: bool = True) -> None:
        super().__init__(why)
        self.is_news = is_news

    @property
    def level(self) -> int:
        """The level of the log line."""
        return logging.INFO if self.is_news else logging.DEBUG


@dataclass(frozen=True)
class Manifest:
    """The contents of `meta`.

    bound_to: values that must be the same in the next run; created: Unix time [s]; result: the task's entry in the
    report once this party is done with the task; run_succeeded: whether the run is over and ended with 0, so that only
    a peer whose run failed at the very end may still need this.
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
    run_succeeded: bool = False

    @property
    def capacities(self) -> tuple[int, int]:
        """The capacities of a bin, (own, peer's) [items]."""
        return Sizes(self.own_count, self.peer_count, self.bins).capacities

    @property
    def slot_bytes(self) -> int:
        """The size of a slot, including its first byte and its checksum [bytes]."""
        own, peer = (-(-each // 8) for each in self.capacities)
        secret = ORDER_SECRET_BYTES * self.broadcast
        return 1 + (own + peer * self.broadcast if self.receives else secret) + _CHECKSUM_BYTES

    def to_octets(self) -> bytes:
        """Return the contents of the file: a magic line, one line of JSON, and the SHA-256 of both."""
        octets = _MAGIC + json.dumps(asdict(self)).encode() + b"\n"
        return octets + hashlib.sha256(octets).hexdigest().encode() + b"\n"

    @classmethod
    def from_octets(cls, octets: bytes) -> Self:
        """Parse the contents of the file; raises DoubtfulStateError unless they are exactly what was written."""
        whole, checksum = octets[:-65], octets[-65:]
        if not whole.startswith(_MAGIC) or checksum != hashlib.sha256(whole).hexdigest().encode() + b"\n":
            raise DoubtfulStateError("it is damaged")
        try:
            return cls(**json.loads(whole.removeprefix(_MAGIC)))
        except (ValueError, TypeError) as exc:
            raise DoubtfulStateError("another version of psicli wrote it") from exc


class FinishedBins:
    """The finished bins of a running task, or the result of one that is done; thread-safe."""

    def __init__(self, folder: TaskFolder, manifest: Manifest) -> None:
        """Use `create` or `load`."""
        self.manifest = manifest
        self._folder = folder
        self._guard = threading.RLock()
        # The slots of finished bins, without their checksums.
        self._slots: dict[int, bytes] = {}

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Self | None:
        """Create an empty checkpoint, replacing an existing one; log a warning and return None if that fails."""
        folder, about = None, {"task": manifest.bound_to["task"]}
        try:
            folder = TaskFolder.hold(path, make=True)
            if folder is None:
                logger.warning("another run holds this task's checkpoint, so this run cannot be resumed", extra=about)
                return None
            for left in folder.path.iterdir():
                if left.name != "lock":
                    left.unlink()
            replace_file(folder.path / "meta", manifest.to_octets())
            return cls(folder, manifest)
        except (CannotCreateError, OSError) as exc:
            why = reason(exc) if isinstance(exc, OSError) else exc.message
            logger.warning("cannot write a checkpoint, so this task cannot be resumed: %s", why, extra=about)
            if folder is not None:
                folder.remove()
            return None

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Return the checkpoint that an earlier run left, or None.

        Raises DoubtfulStateError after removing an unusable one, CannotCreateError, StorageError.
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
        """One bit per finished bin; bin 0 is the least significant."""
        if self.manifest.result is not None:
            return every_bin(self.manifest.bins)
        return sum(1 << number for number in self._slots)

    def is_received(self, number: int) -> bool:
        return self._slots.get(number, b"\0")[0] == RECEIVED

    def data(self) -> dict[int, bytes]:
        """Return the data of the finished bins."""
        return {number: slot[1:] for number, slot in self._slots.items()}

    def put(self, number: int, data: bytes = b"", *, state: int = FINISHED) -> None:
        """Save a bin's data; it is on disk when this returns."""
        slot = bytes([state]) + data
        assert len(slot) + _CHECKSUM_BYTES == self.manifest.slot_bytes
        with self._changing():
            # A late write must not change a checkpoint that was left to the next run, or restore wiped data.
            if self._folder.is_held and self.manifest.result is None:
                checked = slot + _checksum(self.manifest, number, slot)
                _write_at(self._folder.path / SECRETS, number * self.manifest.slot_bytes, checked)
                self._slots[number] = slot

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Save the result of a finished task, and wipe the bins."""
        with self._changing():
            if self._folder.is_held:
                manifest = replace(self.manifest, result=result)
                replace_file(self._folder.path / "meta", manifest.to_octets())
                self.manifest, self._slots = manifest, {}
                wipe(self._folder.path / SECRETS)

    def leave(self, *, run_succeeded: bool) -> None:
        """Record how the run ended, and release the files for the next run."""
        if run_succeeded is not self.manifest.run_succeeded:
            with self._changing():
                if self._folder.is_held:
                    self.manifest = replace(self.manifest, run_succeeded=run_succeeded)
                    replace_file(self._folder.path / "meta", self.manifest.to_octets())
        self.let_go()

    def discard(self) -> None:
        """Remove all files; raises StorageError if one cannot be removed."""
        with self._guard:
            self._folder.remove()

    def let_go(self) -> None:
        """Release the files for the next run."""
        with self._guard:
            self._folder.let_go()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Guard a change to the files; if it fails, drop the checkpoint with a warning."""
        with self._guard:
            try:
                yield
            except OSError as exc:
                text = "dropped the checkpoint, so this task cannot be resumed: %s"
                logger.warning(text, reason(exc), extra={"task": self.manifest.bound_to["task"]})
                self.discard()


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a checkpoint, which another run may hold; raises DoubtfulStateError."""
    try:
        manifest = Manifest.from_octets((path / "meta").read_bytes())
    except OSError as exc:
        raise DoubtfulStateError(f"it cannot be read: {reason(exc)}") from exc
    age = time.time() - manifest.created
    if age > MAX_AGE:
        raise DoubtfulStateError("it is more than 24 hours old", is_news=not manifest.run_succeeded)
    if age < -CLOCK_SLACK:
        raise DoubtfulStateError("its date is in the future by this machine's clock")
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
    """Remove checkpoints that are too old or damaged and that no run holds; return their folders.

    Raises CannotCreateError, StorageError.
    """
    removed = []
    for folder in task_folders(state):
        try:
            read_manifest(folder)
        except DoubtfulStateError as exc:
            if held := TaskFolder.hold(folder):
                held.remove()
                logger.log(exc.level, "removed the checkpoint in %s: %s", folder, exc)
                removed.append(folder)
    return removed


def checkpoints(state: Path) -> list[dict[str, Any]]:
    """Return a description of every usable checkpoint of a run that did not end well, ready for JSON."""
    found = []
    for folder in task_folders(state):
        with suppress(DoubtfulStateError):
            manifest = read_manifest(folder)
            if manifest.run_succeeded:
                continue
            finished = manifest.bins if manifest.result is not None else len(read_slots(folder, manifest))
            since = datetime.fromtimestamp(manifest.created, UTC).isoformat(timespec="seconds")
            names = {name: manifest.bound_to[name] for name in ("job", "party", "task")}
            share = round(finished / manifest.bins, 3) if manifest.bins else 1.0
            bins = {"done": share, "bins": manifest.bins, "finished_bins": finished}
            found.append({"folder": str(folder), **names, "since": since, **bins})
    return found


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Write data at an offset of a file, created if missing, and sync it to disk; raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        file.seek(offset)
        while data:
            failpoints.hit("bins.writing")
            data = data[os.write(descriptor, data) :]
        os.fdatasync(descriptor)
        failpoints.hit("bins.written")


def _checksum(manifest: Manifest, number: int, slot: bytes) -> bytes:
    """Return a checksum that binds a slot to this bin of this task."""
    where = manifest.partition_sid.encode() + number.to_bytes(4, "big")
    return hashlib.sha256(where + slot).digest()[:_CHECKSUM_BYTES]
