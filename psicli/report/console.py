"""Standard error: the log, the progress bars and the report of a run whose rows go to standard output.

Nothing else in psicli prints. On a terminal a run shows a bar for its task and one for the whole job; elsewhere every
line carries a time stamp, the job and the task, so that a mail or a journal can be read afterwards. Both show how far
the masking is, own items and the peer's, and nothing of what comes after it: how long that takes tells of matches.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TypeAlias

import click
from tqdm import tqdm

logger = logging.getLogger(__name__)

# How often a line tells how far a task is, where there is no terminal [s].
LINE_INTERVAL = 60.0

# Items masked so far and of how many: own, own in all, the peer's, the peer's in all.
Masked = tuple[int, int, int, int]

_ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_LEVELS = {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}


class _Formatter(logging.Formatter):
    """On a terminal what a person who watches needs, elsewhere what a line needs that is read the morning after."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def format(self, record: logging.LogRecord) -> str:
        place = " ".join(name for name in (self._console.job, getattr(record, "task", "")) if name)
        text = f"{place}: {super().format(record)}" if place else super().format(record)
        if not self._console.terminal:
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            return f"{moment} {record.levelname} {click.unstyle(text)}"
        if record.levelno < logging.WARNING:
            return text
        return click.style(text, fg="red" if record.levelno >= logging.ERROR else "yellow")

    def formatException(self, ei: _ExceptionInfo) -> str:
        """Show where something happened and of what kind it is, not what it says: a library may quote a row."""
        parts: list[str] = []
        exc = ei[1]
        while exc is not None:
            where = "".join(traceback.format_tb(exc.__traceback__))
            parts.append(f"Traceback (most recent call last):\n{where}{type(exc).__qualname__}")
            exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        return "\nthen, while that was handled:\n".join(reversed(parts))


class _Handler(logging.Handler):
    """Write below a bar that may stand there, a line at once: several processes may share standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        # A reader of standard error that has gone away must not end the run.
        with suppress(OSError, ValueError):
            tqdm.write(self.format(record) + "\n", file=sys.stderr, end="")


class Console:
    """Set up logging for one command and show its progress; verbosity -1 is quiet, 1 shows details.

    job: what every line starts with; tasks: how many the job has.
    """

    def __init__(self, verbosity: int) -> None:
        self.job = ""
        self.tasks = 1
        self.terminal = sys.stderr.isatty()
        handler = _Handler()
        handler.setFormatter(_Formatter(self))
        logger = logging.getLogger("psicli")
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(_LEVELS[verbosity])
        self._meter = None if verbosity < 0 else _Bars(self) if self.terminal else _Lines()
        self._masked: dict[str, Masked] = {}

    def progress(self, task: str, masked: Masked) -> None:
        """Show how far the masking of a task is."""
        if self._meter is None or self._masked.get(task) == masked or not masked[1] + masked[3]:
            return
        self._masked[task] = masked
        with suppress(OSError, ValueError):
            self._meter.move(task, self._masked)

    def close(self) -> None:
        if isinstance(self._meter, _Bars):
            with suppress(OSError, ValueError):
                self._meter.close()


class _Bars:
    """A bar for the task that runs, below one for the whole job where that has more than one task."""

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
            self._task_bar, self._task = _bar(int(several), task, own_total + peer_total), task
        self._task_bar.set_postfix_str(_both_ways(masked[task]), refresh=False)
        self._task_bar.update(own + peer - self._task_bar.n)

    def _move_job(self, masked: dict[str, Masked]) -> None:
        total = sum(own_total + peer_total for _, own_total, _, peer_total in masked.values())
        if self._job_bar is None:
            self._job_bar = _bar(0, self._console.job, total)
        bar, tasks = self._job_bar, self._console.tasks
        through = sum(own + peer == own_total + peer_total for own, own_total, peer, peer_total in masked.values())
        bar.set_description_str(f"{self._console.job}: {through} of {tasks} tasks", refresh=False)
        bar.total = total
        # What is not known yet has no part in a percentage or a time that is left.
        bar.bar_format = None if len(masked) == tasks else _OF_WHAT_IS_KNOWN
        bar.update(sum(own + peer for own, _, peer, _ in masked.values()) - bar.n)

    def close(self) -> None:
        for bar in (self._task_bar, self._job_bar):
            if bar is not None:
                bar.close()


_OF_WHAT_IS_KNOWN = "{desc}, {n_fmt} of {total_fmt} items known so far [{elapsed}, {rate_fmt}]"


def _bar(position: int, name: str, total: int) -> Any:
    look: dict[str, Any] = {"unit": " items", "unit_scale": True, "leave": False, "dynamic_ncols": True}
    return tqdm(desc=name, total=total, position=position, file=sys.stderr, **look)


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._task = ""
        self._told_at = 0.0
        self._told = 0

    def move(self, task: str, masked: dict[str, Masked]) -> None:
        own, own_total, peer, peer_total = masked[task]
        now, done, total = time.monotonic(), own + peer, own_total + peer_total
        seconds = now - self._told_at
        if task == self._task and (seconds < LINE_INTERVAL or done == total):
            return
        if task == self._task:
            rate = max(done - self._told, 1) / seconds
            logger.info(
                "masked %d %% (%s), %s items/s, about %s left",
                100 * done // total,
                _both_ways(masked[task]),
                tqdm.format_sizeof(rate),
                duration((total - done) / rate),
                extra={"task": task},
            )
        self._task, self._told_at, self._told = task, now, done


def _both_ways(masked: Masked) -> str:
    own, own_total, peer, peer_total = masked
    return f"own {100 * own // max(own_total, 1)} %, theirs {100 * peer // max(peer_total, 1)} %"


def duration(seconds: float) -> str:
    """Say a time [s] for people."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
