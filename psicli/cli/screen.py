"""What a command writes: standard output carries the report, or the rows of a task, and nothing else."""

from __future__ import annotations

import logging
import os
import sys

import click

from psicli.core import failpoints, signals
from psicli.core.errors import PsicliError, StorageError, reason

logger = logging.getLogger(__name__)

# The standard streams that were closed when we started.
closed_streams: set[str] = set()


def open_standard_streams() -> None:
    """Put the null device where a standard stream is closed: files we open must never land on fd 0, 1 or 2."""
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


def refuse(error: PsicliError, as_json: bool) -> int:
    """Report a run that never began."""
    from psicli.report.report import to_json

    tell(error)
    if as_json:
        write(to_json(None, error))
    return error.code


def tell(error: PsicliError) -> None:
    logger.error("%s", error.message)
    if error.advice:
        logger.error("hint: %s", error.advice)


def write(text: str, *, to_stderr: bool = False) -> None:
    """Write a report; a reader that has gone away is no reason to fail, any other failure is StorageError."""
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        with signals.allowed():
            click.echo(text, file=stream)
            stream.flush()
            failpoints.passage("report.written")
    except OSError as exc:
        # What is left in the buffer must not fail a second time at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise StorageError(path="standard output", reason=reason(exc)) from exc
