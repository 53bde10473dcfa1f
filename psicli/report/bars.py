"""The progress of a run on a terminal, as bars below the log."""

from __future__ import annotations

import sys
import threading
from typing import Any

from tqdm import tqdm

from psicli.report.console import Console, Masked, shares_of
from psicli.report.layout import shorten

# The lock that tqdm would make is one for several processes, and with Python 3.14 it starts a process to watch over it.
tqdm.set_lock(threading.RLock())

# The longest name beside a bar [columns].
_NAME_WIDTH = 18
_TASK_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} items, {rate_fmt}, {remaining} left"
_JOB_BAR = "{desc} {percentage:3.0f}% |{bar}| {elapsed} so far{postfix}"


class Bars:
    """A bar for the current task, and above it one for the job if that has several tasks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._task = ""
        self._task_bar: Any = None
        self._job_bar: Any = None

    def move(self, task: str, masked: dict[str, Masked]) -> None:
        own, own_total, peer, peer_total = masked[task]
        several = self._console.tasks > 1
        if several:
            self._move_job(masked)
        if task != self._task:
            if self._task_bar is not None:
                self._task_bar.close()
            self._task_bar, self._task = _bar(int(several), task, own_total + peer_total, _TASK_BAR), task
        self._task_bar.update(own + peer - self._task_bar.n)

    def _move_job(self, masked: dict[str, Masked]) -> None:
        """Count tasks, and parts of them: before the last task has been read, nobody knows the number of items."""
        tasks = self._console.tasks
        if self._job_bar is None:
            self._job_bar = _bar(0, self._console.job, tasks, _JOB_BAR)
        shares = shares_of(masked)
        done = sum(share == 1 for share in shares)
        self._job_bar.set_postfix_str(f"{done} of {tasks} tasks", refresh=False)
        self._job_bar.update(sum(shares) - self._job_bar.n)

    def close(self) -> None:
        for bar in (self._task_bar, self._job_bar):
            if bar is not None:
                bar.close()


def _bar(position: int, name: str, total: int, form: str) -> Any:
    name = f"{shorten(name, _NAME_WIDTH):{_NAME_WIDTH}}"
    look: dict[str, Any] = {"unit": "", "unit_scale": total >= 10_000, "leave": False, "dynamic_ncols": True}
    return tqdm(desc=name, total=total, position=position, file=sys.stderr, bar_format=form, **look)


def write_above(text: str) -> None:
    """Write a line of the log above the bars; raises OSError."""
    tqdm.write(text, file=sys.stderr, end="")
