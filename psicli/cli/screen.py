"""What a command writes.

Standard output carries the report or the rows of a task; the log and the errors go to standard error.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from psicli.core import failpoints, signals
from psicli.core.errors import PsicliError, StorageError, reason
from psicli.report.console import log_error
from psicli.report.json_log import json_line, logs_json

logger = logging.getLogger(__name__)

# The standard streams that were closed when psicli started.
closed_streams: set[str] = set()


def open_standard_streams() -> None:
    """Open the null device for every closed standard stream, so that no later file gets descriptor 0, 1 or 2."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            closed_streams.add(name)
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not fail a run whose outputs are in place.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def streams_are_one() -> bool:
    """Return whether standard output and standard error go to the same place, such as a terminal or cron's mail."""
    with suppress(OSError):
        # Descriptor 2 may be kept from what Ray writes there; psicli's own stream never is.
        return os.path.sameopenfile(1, sys.stderr.fileno())
    return False


def refuse(error: PsicliError, as_json: bool) -> int:
    """Report a run that never began, and return its exit code.

    Only the JSON object goes to standard output: without a usable job file, psicli cannot know whether standard output
    is meant for rows.
    """
    from psicli.report.report import to_json

    log_error(error.message, error.advice)
    if as_json:
        write(to_json(None, error))
    return error.code


def warn(text: str) -> None:
    """Write a warning of a command that has no log of its own."""
    if logs_json():
        logger.warning("%s", text)
    else:
        write(f"warning: {text}", to_stderr=True)


def write(text: str, *, to_stderr: bool = False) -> None:
    """Write a report. A reader that closed the pipe is no error; any other failure raises StorageError."""
    if to_stderr and logs_json():
        text = json_line(time.time(), "INFO", {}, text)
    _echo(text, to_stderr=to_stderr)


def write_among_lines(names: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """Write the report of a run to standard error, as a line of a log of JSON; raises StorageError as `write` does."""
    _echo(json_line(time.time(), "INFO", names, "the report", report=facts), to_stderr=True)


def _echo(text: str, *, to_stderr: bool) -> None:
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        with signals.allowed():
            click.echo(text, file=stream)
            stream.flush()
            failpoints.hit("report.written")
    except OSError as exc:
        # The rest of the buffer must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise StorageError(path="standard output", reason=reason(exc)) from exc
