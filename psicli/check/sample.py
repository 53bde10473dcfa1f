"""The size of an input, from its first rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psicli import curve, tables
from psicli.check import estimate
from psicli.check.estimate import Estimate, Size
from psicli.config import Job, Task
from psicli.core import signals
from psicli.items.encoding import encode_items, packed
from psicli.tables import Input

# How many rows of an input are read, rounded up to a block of the file.
SCANNED_ROWS = 100_000


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


def read_sample(source: Input, look: Callable[[Sequence[Any]], None] = lambda texts: None, *, full: bool) -> Sample:
    """Read the keys of the first rows, or of all rows; look: called with the keys of each batch."""
    seen = matchless = item_bytes = 0
    for texts in source.key_batches():
        signals.check()
        look(texts)
        encoded = encode_items(texts)
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
