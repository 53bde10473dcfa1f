"""What a job will take, from the sizes of its inputs: time, memory, disk, traffic.

No count of the other side is known before a run, and none of ours leaves the machine: it is taken to have as many items
as this side, and all rows are taken to have items of their own and to match. So all of this is about the most, but for
the other side's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psicli import items
from psicli.config import Job, Task
from psicli.files import Format, file_format
from psicli.job import ITEMS_PART
from psicli.outputs import OUTPUT_PART
from psicli.pipeline import lists_on_disk
from psicli.rate import Rate
from psicli.spool import Storage

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


def seconds(sizes: Sequence[Size], rate: Rate) -> float:
    """Return how long the tasks take, both sides at work at once, each on a machine like this one [s]."""
    return _START_SECONDS + _OVERHEAD * (rate.own + rate.peer) * sum(size.rows for size in sizes)


def traffic(sizes: Sequence[Size]) -> int:
    """Return what goes over the network, both ways together [bytes]."""
    return PAIR_BYTES * sum(size.rows for size in sizes)


def spool_bytes(job: Job, tasks: Sequence[tuple[Task, Size]]) -> int:
    """Return the most that lies in the state folder at once for want of memory [bytes].

    While one task exchanges, the next one's input is read.
    """
    storage = Storage(None, job.pipeline.working_memory)
    read = [items.items_on_disk(size.rows, size.item_bytes, storage.share(ITEMS_PART)) for _, size in tasks]
    kept = [
        lists_on_disk(size.rows, size.rows, storage, tokens=task.receiver == job.party) + _sorted_on_disk(task, storage)
        for task, size in tasks
    ]
    following = [*read, 0][1:]
    return max((mine + lists + then for mine, lists, then in zip(read, kept, following, strict=True)), default=0)


def _sorted_on_disk(task: Task, storage: Storage) -> int:
    if not isinstance(task.output_path, Path):
        return 0
    size = _unpacked_bytes(task)
    return size if size > storage.share(OUTPUT_PART) else 0


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
