"""What a job will take, from the sizes of its inputs: time, memory, disk, traffic.

No count of the other side is known before a run, and none of ours leaves the machine: it is taken to have as many items
as this side, and all rows are taken to have items of their own and to match. So all of this is about the most, but for
the other side's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from psicli.config import Job, Task
from psicli.core.formats import Format, file_format
from psicli.core.memory import MemoryPlan
from psicli.items import partitions
from psicli.job.meeting import bin_items
from psicli.protocol.bins import number_of_bins, padded

# What crosses the network for an item of ours and one of theirs, framing included: two points and a token [bytes].
PAIR_BYTES = 84
# How much longer than its kernel a run takes: reading, writing, and what does not overlap.
_OVERHEAD = 1.15
# Starting the process, meeting the peer, and ending [s].
_START_SECONDS = 1.0
# How many times its size a file that is packed is taken to hold.
_PACKED = 5


@dataclass(frozen=True)
class Size:
    """How large a task's input is: rows, and all of its items together [bytes]."""

    rows: int
    item_bytes: int


def padded_items(job: Job, size: Size) -> int:
    """Return how many items of a task travel a way, padding included [items]."""
    return padded(size.rows, number_of_bins(size.rows, size.rows, bin_items(job)))


def seconds(items: int, rates: Mapping[str, float]) -> float:
    """Return how long so many items take, both sides at work at once, each on a machine like this one [s].

    rates: what this machine reaches, by operation [points a second].
    """
    return _START_SECONDS + _OVERHEAD * sum(items / rate for rate in rates.values())


def spool_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most that lies in the state folder at once for want of memory [bytes].

    While one task exchanges, the next one's input is read.
    """
    plan = MemoryPlan(job.pipeline.memory)
    read = [partitions.disk_bytes(size.rows, size.item_bytes, plan.reading) for _, size in tasks]
    kept = [_sorted_on_disk(task, plan) for task, _ in tasks]
    following = [*read, 0][1:]
    return max((mine + output + then for mine, output, then in zip(read, kept, following, strict=True)), default=0)


def _sorted_on_disk(task: Task, plan: MemoryPlan) -> int:
    if not isinstance(task.output_path, Path):
        return 0
    size = _unpacked_bytes(task)
    return size if size > plan.sorting else 0


def output_bytes(tasks: Sequence[Task]) -> int:
    """Return the most that outputs on one disk take beside what lies there now [bytes].

    Each is written whole before it replaces the one of the run before. A packed file is taken to hold five times its
    size.
    """
    most = grown = 0
    for task in tasks:
        assert isinstance(task.input_path, Path)
        assert isinstance(task.output_path, Path)
        packed = _is_packed(task.output_path)
        new = task.input_path.stat().st_size if packed else _unpacked_bytes(task)
        most = max(most, grown + new)
        grown += new - (task.output_path.stat().st_size if task.output_path.exists() else 0)
    return most


def _unpacked_bytes(task: Task) -> int:
    assert isinstance(task.input_path, Path)
    return task.input_path.stat().st_size * (_PACKED if _is_packed(task.input_path) else 1)


def _is_packed(path: Path | str) -> bool:
    fmt = file_format(path)
    return fmt.gzip or fmt.kind is Format.PARQUET
