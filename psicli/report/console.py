"""What a command shows on standard error while it runs: the log and the progress.

On a terminal, a run shows a bar for the current task and one for the whole job. Elsewhere each line has a time stamp,
the job and the task, so that a mail or a journal makes sense later; with PSICLI_LOG=json each line is a JSON object.
Progress means masking, of this party's items and of the peer's, or with rr22 their exchange. The steps after it show no
progress, because their duration depends on the number of matches.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from psicli.core.errors import printable
from psicli.report.channel import Channel
from psicli.report.json_log import json_line, logs_json
from psicli.report.layout import Screen, knows_escapes

logger = logging.getLogger(__name__)

# How often the log reports the progress of a task where there is no terminal [s].
LINE_INTERVAL = 60.0

# The name of the attribute that marks a line of the log as a hint, and how its text begins.
HINT = "is_hint"
HINT_PREFIX = "hint: "

# Counts of items: own masked, own in total, the peer's masked, the peer's in total.
Masked = tuple[int, int, int, int]
_LEFT_OUT = (1, 1, 0, 0)

_ExceptionInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
# Clears the line that another process may have left on the terminal.
_CLEAR_LINE = "\r\x1b[K"


class _Formatter(logging.Formatter):
    """Format a line for a person who watches a terminal, or with time stamp and level for one who reads it later."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def format(self, record: logging.LogRecord) -> str:
        place = " ".join(name for name in (self._console.job, getattr(record, "task", "")) if name)
        prefix = f"{place}: " if place else ""
        lines = [printable(line) for line in record.getMessage().split("\n")]
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        if logs_json():
            return self._as_json(record, "\n".join(lines), trace)
        if not self._console.terminal:
            moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            # Each line of a message stands for itself in a journal, and is found by its level.
            return "\n".join([*(f"{moment} {record.levelname} {prefix}{line}" for line in lines), *trace])
        text = "\n".join(lines + trace)
        screen = Screen.of(sys.stderr)
        if record.exc_info:
            # The lines of a traceback stay whole.
            screen = replace(screen, width=None)
        if hasattr(record, HINT) or record.levelno < logging.WARNING:
            return screen.wrap(prefix + text)
        kind, colour = ("error", "red") if record.levelno >= logging.ERROR else ("warning", "yellow")
        return screen.paint(screen.wrap(f"{prefix}{kind}: {text}"), colour)

    def _as_json(self, record: logging.LogRecord, text: str, trace: list[str]) -> str:
        names = self._console.names or ({"job": self._console.job} if self._console.job else {})
        names = {**names, **{name: getattr(record, name) for name in ("job", "task") if hasattr(record, name)}}
        facts: dict[str, Any] = {"traceback": trace} if trace else {}
        if hasattr(record, HINT):
            text, facts = text.removeprefix(HINT_PREFIX), {**facts, "hint": True}
        return json_line(record.created, record.levelname, names, text, **facts)

    def formatException(self, ei: _ExceptionInfo) -> str:
        """Show the place and the class of an exception, but not its text: a library may quote a row there."""
        parts: list[str] = []
        exc = ei[1]
        while exc is not None:
            where = "".join(traceback.format_tb(exc.__traceback__))
            parts.append(f"Traceback (most recent call last):\n{where}{type(exc).__qualname__}")
            exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        return "\nDuring handling of the above exception, another exception occurred:\n".join(reversed(parts))


class _Handler(logging.Handler):
    """Write each line in one call: several processes may share standard error. above_bars: whether there are bars."""

    def __init__(self, start: str, *, above_bars: bool) -> None:
        super().__init__()
        self._start, self._above_bars = start, above_bars

    def emit(self, record: logging.LogRecord) -> None:
        # The run must not end because the reader of standard error has.
        with suppress(OSError, ValueError):
            line = f"{self._start}{self.format(record)}\n"
            if self._above_bars:
                from psicli.report.bars import write_above

                write_above(line)
            else:
                sys.stderr.write(line)


def log_error(message: str, hint: str) -> None:
    """Log an error and its hint, if it has one."""
    logger.error("%s", message)
    if hint:
        logger.error("%s%s", HINT_PREFIX, hint, extra={HINT: True})


class Console:
    """The log and the progress of one command. verbosity: -1 shows only warnings and errors, 1 shows details.

    bars: False where another process shows the progress on the same terminal. channel: where a batch reads the
    progress instead. job: the start of every line. names: the names in every line of JSON, if not that of the job
    alone. tasks: the number of tasks of the job.
    """

    def __init__(self, verbosity: int, *, bars: bool = True, channel: Channel | None = None) -> None:
        self._channel = channel
        self.job = ""
        self.names: Mapping[str, str] = {}
        self.tasks = 1
        # Nothing but objects may be on standard error with JSON.
        self.terminal = sys.stderr.isatty() and not logs_json()
        shares_a_line = self.terminal and not bars and knows_escapes()
        handler = _Handler(_CLEAR_LINE if shares_a_line else "", above_bars=self.terminal)
        handler.setFormatter(_Formatter(self))
        logger = logging.getLogger("psicli")
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(_LEVELS[verbosity])
        hidden = verbosity < 0 or (self.terminal and not bars)
        self._meter = None if hidden or channel else self._bars() if self.terminal else _Lines()
        self._masked: dict[str, Masked] = {}
        self._told: set[str] = set()

    def tell(self, message: str, hint: str) -> None:
        """Log an error of the run and its hint, unless it was logged already."""
        if message not in self._told:
            self._told.add(message)
            log_error(message, hint)

    def progress(self, task: str, masked: Masked) -> None:
        """Show how many items of a task are masked."""
        if self._masked.get(task) == masked or not masked[1] + masked[3]:
            return
        self._masked[task] = masked
        if self._channel is not None:
            self._channel.progress(task, int(100 * sum(shares_of(self._masked)) / self.tasks))
        if self._meter is not None:
            with suppress(OSError, ValueError):
                self._meter.move(task, self._masked)

    def waits(self) -> None:
        """Tell a batch that the run waits for its peer."""
        if self._channel is not None:
            self._channel.waits()

    def meets(self) -> None:
        """Tell a batch that the peer is there."""
        if self._channel is not None:
            self._channel.progress("", 0)

    def leave_out(self, task: str) -> None:
        """Count a task that a party has skipped as over in the progress of the job."""
        self._masked[task] = _LEFT_OUT

    def _bars(self) -> Meter:
        # Imported late, here and in the handler: only a terminal needs the library that draws bars.
        from psicli.report.bars import Bars

        return Bars(self)

    def close(self) -> None:
        """Remove the bars."""
        if self._meter is not None:
            with suppress(OSError, ValueError):
                self._meter.close()


def shares_of(masked: Mapping[str, Masked]) -> list[float]:
    """Return how much of each task is masked, from 0 to 1."""
    return [(own + peer) / (own_total + peer_total) for own, own_total, peer, peer_total in masked.values()]


class Meter(Protocol):
    """What shows how many items of a task are masked."""

    def move(self, task: str, masked: dict[str, Masked]) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """A line of the log about every task that takes long."""

    def __init__(self) -> None:
        self._task = ""
        self._logged_at = 0.0
        self._logged = 0

    def move(self, task: str, masked: dict[str, Masked]) -> None:
        own, own_total, peer, peer_total = masked[task]
        now, done, total = time.monotonic(), own + peer, own_total + peer_total
        seconds = now - self._logged_at
        if task == self._task and (seconds < LINE_INTERVAL or done == total):
            return
        if task == self._task:
            from tqdm import tqdm

            rate = max(done - self._logged, 1) / seconds
            logger.info(
                "exchanged %d %% (%s), %s items/s, about %s left",
                100 * done // total,
                _both_ways(masked[task]),
                tqdm.format_sizeof(rate),
                duration((total - done) / rate),
                extra={"task": task},
            )
        self._task, self._logged_at, self._logged = task, now, done

    def close(self) -> None:
        """Lines stay."""


def _both_ways(masked: Masked) -> str:
    own, own_total, peer, peer_total = masked
    return f"own {100 * own // max(own_total, 1)} %, theirs {100 * peer // max(peer_total, 1)} %"


def duration(seconds: float) -> str:
    """Return a duration [s] in words."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
