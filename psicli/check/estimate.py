"""Estimates of the time, memory, disk space and traffic of a job, from the sizes of its inputs.

The size of the peer's inputs is not known before a run, so the estimates assume that it has as many items as this
party. They also assume that all rows have different items and that all match. They are about the maximum unless the
peer has more items.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psicli.config import Job, Task
from psicli.items import partitions
from psicli.job.meeting import bin_items
from psicli.protocol.bins import number_of_bins, padded
from psicli.storage.memory import BIN_ITEM_BYTES, LIBRARIES, MemoryPlan

# The traffic for one item of each party: two points and a token, including framing [bytes].
PAIR_BYTES = 84
# The time of a run divided by the time of its kernel: reading, writing, and work that does not overlap.
_OVERHEAD = 1.15
# The time to start the process, to meet the peer and to end [s].
_START_SECONDS = 1.0


@dataclass(frozen=True)
class Size:
    """The size of a task's input: the number of rows; and of all items together, the files, and their content [bytes].

    content_bytes: a guess if the files are compressed.
    """

    rows: int
    item_bytes: int
    file_bytes: int
    content_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a job needs: time [s]; memory, disk space besides the outputs, and traffic [bytes]."""

    seconds: float
    memory: int
    disk: int
    traffic: int


def of_job(job: Job, tasks: Sequence[tuple[Task, Size]], rates: Mapping[str, float]) -> Estimate:
    """Return what a job needs if both parties work at the same time on machines like this one.

    rates: the speed of this machine, by operation [points per second].
    """
    items = sum(padded_items(job, size) for _, size in tasks)
    seconds = _START_SECONDS + _OVERHEAD * sum(items / rate for rate in rates.values())
    return Estimate(seconds, memory_bytes(job, tasks), spool_bytes(job, tasks), PAIR_BYTES * items)


def padded_items(job: Job, size: Size) -> int:
    """Return how many items of a task each party sends, including padding [items]."""
    return padded(size.rows, number_of_bins(size.rows, size.rows, bin_items(job)))


def memory_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return about the most memory that the job uses at any time [bytes]."""
    plan = MemoryPlan(job.pipeline.memory)
    reading = [min(partitions.memory_bytes(size.rows, size.item_bytes), plan.reading) for _, size in tasks]
    # Two bins of a task are in progress at a time.
    in_bins = [BIN_ITEM_BYTES * min(padded_items(job, size), 2 * bin_items(job)) for _, size in tasks]
    sorting = [min(_output_bytes(task, size), plan.sorting) for task, size in tasks]
    each = zip(reading, in_bins, sorting, [*reading, 0][1:], strict=True)
    rows = max((max(read, bins) + output + following for read, bins, output, following in each), default=0)
    return min(LIBRARIES + rows, job.pipeline.memory)


def spool_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most disk space that the job uses in the state folder at any time, because memory is limited [bytes].

    While one task exchanges, the job reads the next task's input.
    """
    plan = MemoryPlan(job.pipeline.memory)
    read = [partitions.disk_bytes(size.rows, size.item_bytes, plan.reading) for _, size in tasks]
    kept = [_sorted_on_disk(task, size, plan) for task, size in tasks]
    following = [*read, 0][1:]
    return max((mine + output + then for mine, output, then in zip(read, kept, following, strict=True)), default=0)


def _sorted_on_disk(task: Task, size: Size, plan: MemoryPlan) -> int:
    needed = _output_bytes(task, size)
    return needed if needed > plan.sorting and task.output.order == "key" else 0


def _output_bytes(task: Task, size: Size) -> int:
    """Return the size of all rows of the input if they go into an output, with what sorts them [bytes]."""
    if task.output_path in (None, "-"):
        return 0
    written = task.keys if task.output.columns is None else task.output.columns
    is_sorted_by_columns = all(form.is_text for form in task.forms) and {*task.keys} <= {*written}
    return size.content_bytes + (0 if is_sorted_by_columns else size.item_bytes)


def output_bytes(tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most additional space that outputs on one disk use at any time [bytes].

    Each output is complete before it replaces the output of an earlier run.
    """
    most = grown = 0
    for task, size in tasks:
        assert task.output_format is not None
        new = size.file_bytes if task.output_format.is_packed else size.content_bytes
        most = max(most, grown + new)
        # An output for a store is on this machine until it has been uploaded.
        grown += new - _size_of_old(task.output_path) if isinstance(task.output_path, Path) else 0
    return most


def _size_of_old(output: Path) -> int:
    """Return the size of the output of an earlier run, or 0 if there is none that this user can see."""
    with contextlib.suppress(OSError):
        return output.stat().st_size
    return 0
