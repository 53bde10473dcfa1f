"""Standard error: the log, the progress bars and the report of a run whose rows go to standard output.

Nothing else in psicli prints. On a terminal a run shows one bar a task; elsewhere every line carries a time stamp,
the job and the task, so that a mail or a journal can be read afterwards.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click
from tqdm import tqdm

_LEVELS = {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}


class _TerminalFormatter(logging.Formatter):
    """What a person who watches needs: the message, and colour where something is wrong."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def format(self, record: logging.LogRecord) -> str:
        place = " ".join(name for name in (self._console.job, getattr(record, "task", "")) if name)
        text = f"{place}: {super().format(record)}" if place else super().format(record)
        if record.levelno < logging.WARNING:
            return text
        return click.style(text, fg="red" if record.levelno >= logging.ERROR else "yellow")


class _JournalFormatter(_TerminalFormatter):
    """What a line needs that is read the morning after."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f"{moment} {record.levelname} {click.unstyle(super().format(record))}"


class _Handler(logging.Handler):
    """Write below a bar that may stand there, a line at once: several processes may share standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        # A reader of standard error that has gone away must not end the run.
        with suppress(OSError, ValueError):
            tqdm.write(self.format(record) + "\n", file=sys.stderr, end="")


class Console:
    """Set up logging for one command and show its progress; verbosity -1 is quiet, 1 shows details.

    job: what every line starts with.
    """

    def __init__(self, verbosity: int) -> None:
        self.job = ""
        self._bar: Any = None
        self._bar_task = ""
        terminal = sys.stderr.isatty()
        self._shows_bars = terminal and verbosity >= 0
        handler = _Handler()
        handler.setFormatter((_TerminalFormatter if terminal else _JournalFormatter)(self))
        logger = logging.getLogger("psicli")
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(_LEVELS[verbosity])

    def progress(self, task: str, done: int, total: int) -> None:
        """Move the bar of a task; one bar at a time."""
        if not self._shows_bars:
            return
        with suppress(OSError, ValueError):
            if task != self._bar_task:
                self.close()
                self._bar = tqdm(desc=task, unit="frame", file=sys.stderr, leave=False)
                self._bar_task = task
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None
