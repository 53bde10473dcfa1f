"""Sketches: how many items the lists of two runs differ in, without keeping any item.

A sketch has 4,096 buckets. Each distinct item changes 16 bits of one bucket by XOR, as its keyed hash says. So two
lists differ in at least as many items as their sketches differ in buckets: a difference below a limit is never missed.
The two numbers are equal unless two of the items that differ share a bucket. For 10 items, the probability of that is
1.1 %; of 100 items, about one is not seen.

The sketches for one peer are in one file of the state folder, together with the random key of their hashes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve
from psicli.core.errors import StorageError, counted, printable, reason
from psicli.core.records import dataclass
from psicli.storage.files import swap_file
from psicli.storage.state import SKETCHES_PREFIX, held, make_state_folder

logger = logging.getLogger(__name__)

BUCKETS = 4096
# A file holds the last sketches of each task, and at most this many in all.
KEPT_OF_A_TASK = 8
MOST_KEPT = 256

_VALUES = np.dtype("<u2")
# A keyed hash as words of 16 bits.
_WORDS = curve.HASH_BYTES // _VALUES.itemsize


class Difference(NamedTuple):
    """The fewest items in which a list differs from an earlier one, and the task and time of that one."""

    items: int
    job: str
    task: str
    time: str

    def __str__(self) -> str:
        earlier = f"task {self.task} of job {self.job} at {self.time}"
        return f"its input differs in {counted(self.items, 'item')} from that of {earlier}"


class Sketch:
    """The sketch of one list; `add` gets each distinct item once. The threads of a run must not share it."""

    def __init__(self, key: bytes) -> None:
        self.items = 0
        self.buckets: npt.NDArray[np.uint16] = np.zeros(BUCKETS, _VALUES)
        self.key = key

    def add(self, items: pa.LargeBinaryArray) -> None:
        """Add distinct items."""
        words = np.frombuffer(curve.keyed_hashes(items, self.key), _VALUES).reshape(-1, _WORDS)
        np.bitwise_xor.at(self.buckets, words[:, 0] % BUCKETS, words[:, 1])
        self.items += len(items)

    def merge(self, other: Sketch) -> None:
        """Add the items of another sketch with the same key; no item may be in both."""
        self.buckets ^= other.buckets
        self.items += other.items


@dataclass
class _Kept:
    """The content of a file: what each sketch is of, and the sketches."""

    key: bytes = field(default_factory=lambda: os.urandom(curve.HASH_KEY_BYTES), repr=False)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    buckets: list[npt.NDArray[np.uint16]] = field(default_factory=list, repr=False)

    @classmethod
    def decode(cls, octets: bytes) -> _Kept:
        """Return the content of a file; raises ValueError, KeyError or TypeError if it is damaged."""
        head, _, rest = octets.partition(b"\n")
        facts = json.loads(head)
        kept = cls(bytes.fromhex(facts["key"]), list(facts["tasks"]))
        if len(kept.key) != curve.HASH_KEY_BYTES or not all(isinstance(task["items"], int) for task in kept.tasks):
            raise ValueError(head)
        kept.buckets = list(np.frombuffer(rest, _VALUES).reshape(len(kept.tasks), BUCKETS))
        return kept

    def encode(self) -> bytes:
        head = json.dumps({"key": self.key.hex(), "tasks": self.tasks}).encode()
        return b"\n".join([head, b"".join(each.tobytes() for each in self.buckets)])

    def put(self, sketch: Sketch, job: str, task: str) -> None:
        """Keep a sketch as the last one of its task; the same one of an earlier run goes."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        fact = {"job": job, "task": task, "time": time, "items": sketch.items}
        same = [at for at in self._of(job, task) if np.array_equal(self.buckets[at], sketch.buckets)]
        self._drop([at for at in same if self.tasks[at]["items"] == sketch.items])
        self.tasks.append(fact)
        self.buckets.append(sketch.buckets)
        self._drop(self._of(job, task)[:-KEPT_OF_A_TASK])
        if len(self.tasks) > MOST_KEPT:
            # The last sketch of another task is worth more than an older one of any task.
            lasts = {(each["job"], each["task"]): at for at, each in enumerate(self.tasks)}.values()
            self._drop([next((at for at in range(len(self.tasks)) if at not in lasts), 0)])

    def forget(self, job: str) -> None:
        """Drop the sketches of all tasks of a job."""
        self._drop([at for at, each in enumerate(self.tasks) if each["job"] == job])

    def _of(self, job: str, task: str) -> list[int]:
        return [at for at, each in enumerate(self.tasks) if (each["job"], each["task"]) == (job, task)]

    def _drop(self, places: Sequence[int]) -> None:
        staying = [at for at in range(len(self.tasks)) if at not in set(places)]
        self.tasks, self.buckets = [self.tasks[at] for at in staying], [self.buckets[at] for at in staying]


class Sketches:
    """The sketches of the lists that this party has used with one peer; other runs may use the same file."""

    def __init__(self, state: Path, party: str, peer: str) -> None:
        name = hashlib.sha256(f"{party}\0{peer}".encode()).hexdigest()[:16]
        self._state, self._path = state, state / f"{SKETCHES_PREFIX}{name}"
        # What this process read or wrote last, and what tells whether the file is still the same.
        self._latest: tuple[tuple[int, int, int], _Kept] | None = None

    def begin(self) -> Sketch:
        """Return an empty sketch; raises CannotCreateError, StorageError."""
        make_state_folder(self._state)
        with held(self._state):
            kept = self._load()
            if not kept.tasks:
                self._save(kept)
        return Sketch(kept.key)

    def closest(self, sketch: Sketch) -> Difference | None:
        """Return how little this list differs from any earlier one; None if there is none, or one is the same."""
        with held(self._state):
            kept = self._load()
        found = []
        for task, buckets in zip(kept.tasks, kept.buckets, strict=True):
            items = max(abs(task["items"] - sketch.items), int(np.count_nonzero(buckets ^ sketch.buckets)))
            found.append(Difference(items, str(task["job"]), str(task["task"]), str(task["time"])))
        closest = min(found, default=None)
        return None if closest is None or not closest.items else closest

    def keep(self, sketch: Sketch, job: str, task: str) -> None:
        """Keep a sketch for later runs; raises CannotCreateError, StorageError."""
        with held(self._state):
            kept = self._load()
            kept.put(sketch, job, task)
            self._save(kept)

    def forget(self, job: str) -> None:
        """Remove the sketches of one job; raises CannotCreateError, StorageError."""
        if os.path.lexists(self._path):
            with held(self._state):
                kept = self._load()
                kept.forget(job)
                if kept.tasks:
                    self._save(kept)
                    return
                try:
                    self._path.unlink(missing_ok=True)
                except OSError as exc:
                    raise StorageError(path=self._path, reason=f"cannot delete this file: {reason(exc)}") from exc

    def _load(self) -> _Kept:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                mark = status.st_ino, status.st_mtime_ns, status.st_size
                if self._latest is None or self._latest[0] != mark:
                    self._latest = mark, _Kept.decode(file.read())
                return self._latest[1]
        except FileNotFoundError:
            return _Kept()
        except OSError as exc:
            raise StorageError(path=self._path, reason=f"reading failed: {reason(exc)}") from exc
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged: psicli cannot compare with earlier inputs", printable(self._path))
            return _Kept()

    def _save(self, kept: _Kept) -> None:
        try:
            swap_file(self._path, kept.encode())
            status = os.lstat(self._path)
            self._latest = (status.st_ino, status.st_mtime_ns, status.st_size), kept
        except OSError as exc:
            raise StorageError(path=self._path, reason=f"writing failed: {reason(exc)}") from exc
