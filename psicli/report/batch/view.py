"""What a batch shows on standard error while it runs.

On a terminal: below the log, a bar for the batch, one for each job in progress, and the jobs that are queued as far as
there is room. Elsewhere: a line of the log for each change, and one about the progress every minute. `psicli batch`
starts processes, so it must stay a process of one thread: tqdm's monitor never starts.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from psicli.core.errors import counted
from psicli.report.batch import JobState, State
from psicli.report.batch.summary import first_cause, matched_rows
from psicli.report.console import HINT, HINT_PREFIX, LINE_INTERVAL, Console, duration
from psicli.report.json_log import logs_json
from psicli.report.layout import USUAL_WIDTH, knows_escapes, shorten

logger = logging.getLogger(__name__)

# The same line about a job is repeated after this time at the earliest: a job whose peer is hours late is queued and
# started again and again [s].
REPEAT_INTERVAL = 600.0
_IN_PROGRESS = (State.STARTING, State.WAITING, State.RUNNING)
# The longest name beside a bar [columns].
_NAME_WIDTH = 18
# The lines of a terminal that does not say how many it has.
_USUAL_LINES = 24
# How many jobs a line about the progress names.
_NAMES_SHOWN = 5
_NUMBER = re.compile(r"\b(?<!-)\d+(\.\d+)?\b")


class View:
    """A Watcher that shows a batch. Close it at the end, before the report is written."""

    def __init__(self, console: Console) -> None:
        # --quiet leaves the log only warnings and errors, and hides the bars.
        is_quiet = not logger.isEnabledFor(logging.INFO)
        self._bars = _Bars(console.job) if console.terminal and knows_escapes() and not is_quiet else None
        self._started = self._progress_told = time.monotonic()
        self._told_at: dict[tuple[str, str], float] = {}
        self._errors: dict[str, list[str]] = {}

    def changed(self, job: JobState, jobs: Sequence[JobState]) -> None:
        level = _level(job)
        # The bars show the rest.
        if self._bars is None or level > logging.INFO or job.state is State.DONE or logger.isEnabledFor(logging.DEBUG):
            text = self._text(job)
            # "1.9 of 2 cores busy" and "1.8 of 2 cores busy" say the same.
            self._tell(job, level, text, _NUMBER.sub("#", text))
        self.progressed(jobs)

    def _text(self, job: JobState) -> str:
        """Return the line of the log about a change; a cause that its process has logged is not repeated."""
        text, cause = doing(job), first_cause(job)
        logged = any(cause in line for line in self._errors.get(job.name, ()))
        return text.removesuffix(f": {cause}") if logged else text

    def _tell(self, job: JobState, level: int, text: str, sense: str) -> None:
        """Log a line about a job, unless one in this sense was logged a short time ago."""
        now = time.monotonic()
        if now - self._told_at.get((job.name, sense), -math.inf) >= REPEAT_INTERVAL:
            self._told_at[job.name, sense] = now
            is_hint = {HINT: True} if text.startswith(HINT_PREFIX) else {}
            # In JSON, it is the name of the job.
            name = {"job" if logs_json() else "task": job.name}
            logger.log(level, "%s", text, extra={**name, **is_hint})

    def progressed(self, jobs: Sequence[JobState]) -> None:
        now = time.monotonic()
        if self._bars is not None:
            with suppress(OSError, ValueError):
                self._bars.draw(jobs, now - self._started)
        elif now - self._progress_told >= LINE_INTERVAL:
            self._progress_told = now
            logger.info("%s", _progress(jobs))

    def said(self, job: JobState, level: int, line: str) -> None:
        if level >= logging.ERROR:
            self._errors.setdefault(job.name, []).append(line)
        if level >= logging.WARNING or logger.isEnabledFor(logging.DEBUG):
            self._tell(job, level, line, line)

    def close(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            with suppress(OSError, ValueError):
                self._bars.close()


def doing(job: JobState) -> str:
    """Return what a job is doing, as a bar, a line of the log and `psicli status` say it."""
    match job.state:
        case State.QUEUED:
            return f"waits: {job.why}" if job.why else "queued"
        case State.STARTING:
            return "starts" if job.starts <= 1 else f"starts, attempt {job.starts}"
        case State.WAITING:
            return f"waits for {job.peer}"
        case State.RUNNING:
            return f"in session with {job.peer}"
        case State.DONE:
            matched = matched_rows(job)
            return f"done in {job.seconds:.1f} s" + ("" if matched is None else f", {counted(matched, 'matched row')}")
        case State.FAILED:
            text = "failed" if job.exit_code is None else f"failed with exit code {job.exit_code}"
        case State.NOT_RUN:
            text = "not run"
    cause = first_cause(job)
    return f"{text}: {cause}" if cause else text


def _level(job: JobState) -> int:
    return {State.FAILED: logging.ERROR, State.NOT_RUN: logging.WARNING}.get(job.state, logging.INFO)


def _progress(jobs: Sequence[JobState]) -> str:
    running = [f"{job.name} {job.percent} %" for job in jobs if job.state is State.RUNNING]
    shown = ", ".join([*running[:_NAMES_SHOWN], *["…"][: len(running) - _NAMES_SHOWN]])
    return counts(jobs) + (f": {shown}" if shown else "")


def counts(jobs: Sequence[JobState], *, over: bool = False) -> str:
    """Return how many jobs are in each state, or only how many of them are over and how they ended."""
    groups: dict[str, Sequence[State]] = {"failed": [State.FAILED], "not run": [State.NOT_RUN]}
    if not over:
        groups |= {"in progress": _IN_PROGRESS, "queued": [State.QUEUED]}
    numbers = {name: sum(job.state in states for job in jobs) for name, states in groups.items()}
    done = sum(job.state is State.DONE for job in jobs)
    return ", ".join(
        [f"{done} of {counted(len(jobs), 'job')} done", *(f"{n} {name}" for name, n in numbers.items() if n)]
    )


class _Bars:
    """The lines below the log: as many as the terminal has room for, each with a text for one job."""

    def __init__(self, batch: str) -> None:
        self._batch = batch
        self._rows: list[_Row] = []

    def draw(self, jobs: Sequence[JobState], seconds: float) -> None:
        """Show the jobs, and the time since the start of the batch [s]."""
        size = _size()
        shown = _shown(jobs, size.lines)
        while len(self._rows) > 1 + len(shown):
            self._rows.pop().close()
        while len(self._rows) < 1 + len(shown):
            self._rows.append(_Row(len(self._rows)))
        # A line that fills the terminal would make it begin another one.
        width = size.columns - 1
        share = sum(100 if job.is_over else job.percent for job in jobs) / max(len(jobs), 1)
        self._rows[0].show(self._batch, f"{counts(jobs, over=True)}, {duration(seconds)} so far", width, share)
        for row, job in zip(self._rows[1:], shown, strict=True):
            if isinstance(job, str):
                row.show("", job, width)
            elif job.state is State.RUNNING:
                row.show(job.name, job.task or doing(job), width, job.percent)
            else:
                row.show(job.name, doing(job), width)

    def close(self) -> None:
        while self._rows:
            self._rows.pop().close()


def _shown(jobs: Sequence[JobState], lines: int) -> list[JobState | str]:
    """Return the jobs that have a line of their own on a terminal, and a last line about those that have none."""
    progressing = [job for job in jobs if job.state in _IN_PROGRESS]
    queued = [job for job in jobs if job.state is State.QUEUED]
    # One line is for the batch, and one for the cursor. Half of the terminal stays for the log if that suffices.
    most = max(lines - 2, 0)
    room = min(most, max(lines // 2, len(progressing)))
    shown: list[JobState | str] = [*progressing, *queued]
    if len(shown) <= room:
        return shown
    return [*shown[: room - 1], f"and {len(shown) - room + 1} more"] if room else []


def _size() -> os.terminal_size:
    columns, lines = 0, 0
    with suppress(OSError, ValueError):
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
    return os.terminal_size((columns or USUAL_WIDTH, lines or _USUAL_LINES))


class _Row(tqdm):  # type: ignore[type-arg]
    """One line below the log. tqdm keeps it there while the log goes on."""

    monitor_interval = 0

    def __init__(self, position: int) -> None:
        self.text = ""
        # Whoever draws the lines knows how many there is room for.
        super().__init__(position=position, file=sys.stderr, leave=False, nrows=position + 2)

    def __str__(self) -> str:
        return self.text

    def show(self, name: str, says: str, width: int, percent: float | None = None) -> None:
        """Show a name and a text, with a bar between them if there is a percentage; width: of the line [columns]."""
        name = f"{shorten(name, _NAME_WIDTH):{_NAME_WIDTH}}"
        text = shorten(f"{name} {says}", width)
        if percent is not None:
            form = "{name} {percentage:3.0f}% |{bar}| {says}"
            parts: dict[str, Any] = {"name": name, "says": says}
            text = self.format_meter(percent, 100, 0, ncols=width, ascii=self.ascii, bar_format=form, **parts)
        if text != self.text:
            self.text = text
            self.refresh()
