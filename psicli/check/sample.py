"""The size of an input, from its first rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve, tables
from psicli.check import estimate
from psicli.check.estimate import Estimate, Setting, Size
from psicli.config import Job, Task
from psicli.core import signals
from psicli.core.records import dataclass
from psicli.items.encoding import encode_items, packed
from psicli.job.groups.expand import expand_files
from psicli.job.inputs import find_source
from psicli.tables import Input

# How many rows of an input are read, rounded up to a block of the file.
SCANNED_ROWS = 100_000
# Of so many hashes, the number of distinct items is estimated with an error of about 0.1 %.
_COUNTED_HASHES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The rows that were read: their number, and how many have no key. size: the size of the whole input."""

    seen: int
    matchless: int
    # An estimate unless all rows were read.
    size: Size
    is_whole: bool


class Distinct:
    """Counts distinct items: exactly if they are few, and else from a share of them that is chosen by their hashes."""

    def __init__(self) -> None:
        self._key = os.urandom(curve.HASH_KEY_BYTES)
        self._parts: list[npt.NDArray[np.uint64]] = []
        self._halvings = 0

    def add(self, items: pa.LargeBinaryArray) -> None:
        """Add items; nulls are none."""
        hashes = np.frombuffer(curve.keyed_hashes(items.drop_null(), self._key), "<u8")
        self._parts.append(self._of_share(hashes[:: curve.HASH_BYTES // hashes.itemsize]))
        if sum(map(len, self._parts)) > 2 * _COUNTED_HASHES:
            self._shrink()

    @property
    def count(self) -> int:
        """How many distinct items there are; an estimate unless is_exact."""
        self._shrink()
        return len(self._parts[0]) << self._halvings

    @property
    def is_exact(self) -> bool:
        self._shrink()
        return not self._halvings

    def _shrink(self) -> None:
        hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *self._parts]))
        while len(hashes) > _COUNTED_HASHES:
            self._halvings += 1
            hashes = self._of_share(hashes)
        self._parts = [hashes]

    def _of_share(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return hashes[hashes >> np.uint64(64 - self._halvings) == 0] if self._halvings else hashes


def read_sample(
    source: Input,
    look: Callable[[Sequence[Any]], None] = lambda texts: None,
    distinct: Distinct | None = None,
    *,
    full: bool,
    rows_wanted: int = SCANNED_ROWS,
) -> Sample:
    """Read the keys of the first rows, or of all rows.

    look: called with the keys of each batch. distinct: gets the items. rows_wanted: how many are enough.
    """
    seen = matchless = item_bytes = 0
    started, worked = time.monotonic(), time.process_time()
    for texts in source.key_batches():
        signals.check()
        look(texts)
        encoded = encode_items(texts)
        if distinct is not None:
            distinct.add(encoded)
        seen += len(encoded)
        matchless += encoded.null_count
        item_bytes += len(packed(encoded)[1])
        if seen >= rows_wanted and not full:
            rows, is_whole = max(source.expected_rows, seen), False
            break
    else:
        rows, is_whole = seen, True
    seconds, worked = time.monotonic() - started, time.process_time() - worked
    # Other programs make it take longer, and several threads need more processor time than that. What other processes
    # need, which convert phone numbers, does not count here.
    if all(form.base != "phone" for form in source.columns.forms):
        seconds = min(seconds, worked)
    size = Size(
        rows, item_bytes * rows // max(seen, 1), source.size, source.content_bytes, seconds * rows / max(seen, 1)
    )
    return Sample(seen, matchless, size, is_whole)


def warm_up(source: Input) -> None:
    """Read the first rows, so that the next reading takes no time for what is loaded only once."""
    read_sample(source, lambda texts: None, Distinct(), full=False, rows_wanted=1)


def estimate_job(job: Job, setting: Setting) -> Estimate:
    """Estimate what a job needs from the first rows of its inputs; raises the error of an input that has any."""
    job, faults = expand_files(job)
    for fault in faults.values():
        raise fault
    return estimate.of_job(job, [(task, _size(task)) for task in job.tasks], setting)


def _size(task: Task) -> Size:
    with ExitStack() as stack:
        found = find_source(task.input, stack)
        with tables.open_source(found, task.keys, forms=task.forms, threads=curve.threads()) as source:
            return read_sample(source, full=False).size
