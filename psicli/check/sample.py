"""The size of an input, from its first rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from psicli import curve, tables
from psicli.check import estimate
from psicli.check.estimate import Estimate, Size
from psicli.config import Job, Task
from psicli.core import signals
from psicli.items.encoding import encode_items, packed
from psicli.tables import Input

# How many rows of an input are read, rounded up to a block of the file.
SCANNED_ROWS = 100_000
# Of so many hashes, the number of distinct items is estimated with an error of about 0.1 %.
_COUNTED_HASHES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The rows that were read: their number, how many have no key, and the bytes of their items together."""

    seen: int
    matchless: int
    item_bytes: int
    # The number of rows of the input, an estimate unless they were all read.
    rows: int
    is_whole: bool

    @property
    def size(self) -> Size:
        """The size of the whole input."""
        return Size(self.rows, self.item_bytes * self.rows // max(self.seen, 1))


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
) -> Sample:
    """Read the keys of the first rows, or of all rows.

    look: called with the keys of each batch. distinct: gets the items.
    """
    seen = matchless = item_bytes = 0
    for texts in source.key_batches():
        signals.check()
        look(texts)
        encoded = encode_items(texts)
        if distinct is not None:
            distinct.add(encoded)
        seen += len(encoded)
        matchless += encoded.null_count
        item_bytes += len(packed(encoded)[1])
        if seen >= SCANNED_ROWS and not full:
            return Sample(seen, matchless, item_bytes, max(source.expected_rows, seen), is_whole=False)
    return Sample(seen, matchless, item_bytes, seen, is_whole=True)


def estimate_job(job: Job, rates: dict[str, float]) -> Estimate:
    """Estimate what a job needs from the first rows of its inputs; raises the error of an input that has any."""
    return estimate.of_job(job, [(task, _size(task)) for task in job.tasks], rates)


def _size(task: Task) -> Size:
    assert isinstance(task.input_path, Path)
    with tables.open_input(
        task.input_path, task.input_format, task.keys, forms=task.forms, threads=curve.threads()
    ) as source:
        return read_sample(source, full=False).size
