"""psicli retry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psicli.cli.many.batch import carry_out, leave_page, reporting, show_plan
from psicli.cli.many.options import BatchOptions, dry_run_flag, retry_options
from psicli.cli.page import checked_page
from psicli.cli.screen import write
from psicli.core.errors import (
    ArgumentError,
    BatchRunningError,
    InputMissingError,
    counted,
    printable,
    shown,
)
from psicli.report.console import Console
from psicli.report.layout import in_words

if TYPE_CHECKING:
    from psicli.batch.plan import Plan
    from psicli.batch.record import Past

logger = logging.getLogger(__name__)

# How many jobs a message names at most.
_NAMES_SHOWN = 20


@click.command()
@retry_options
@dry_run_flag
def retry(options: BatchOptions, dry_run: bool) -> int:
    """Run the jobs of a batch that failed or did not run the last time.

    FILES are those of `psicli batch`; without them, psicli continues the batch that started last. It uses the options
    of that time, except where you give others, and the files as they are now. Jobs that are done count as done for
    those that come after them. If nothing is left to do, the exit code is 0.
    """

    def work(console: Console) -> int:
        past = _last(options.files)
        console.job = past.name
        console.names = {"batch": past.name}
        todo = _todo(past, options.only)
        again = options.again(past.start)
        plan = _plan(again, past, todo) if todo else None
        if plan is None:
            return _nothing_to_do(again, past)
        if dry_run:
            return show_plan(again, plan)
        known = {entry.name for entry in plan.batch.jobs}
        return carry_out(again, console, plan, again.start(), [job for job in past.jobs if job.name in known])

    return reporting(options, work, None if dry_run else options.page)


def _last(files: Sequence[Path]) -> Past:
    """Return the record to continue; raises InputMissingError, and BatchRunningError while its batch runs."""
    from psicli.batch.record import is_running, last_batch
    from psicli.storage.state import state_folder

    past = last_batch([*map(str, files)])
    if past is None:
        place = ", ".join(map(printable, files)) or printable(state_folder())
        fault = "no batch of these files has left a record" if files else "no batch has left a record here"
        advice = "Run `psicli batch` first. It keeps its record in the state folder (PSICLI_STATE_DIR) for 30 days."
        raise InputMissingError(place=place, fault=fault, advice=advice)
    if is_running(past):
        raise BatchRunningError(batch=past.name, pid=past.pid, since=_when(past))
    return past


def _todo(past: Past, only: Sequence[str]) -> list[str]:
    """Return the names of the jobs to run again; raises ArgumentError for a name that the record lacks."""
    names = [job.name for job in past.jobs]
    for name in only:
        if name not in names:
            advice = f"The jobs are {', '.join(names)}."
            raise ArgumentError(option="--only", fault=f"{shown(name)} was not a job of this batch", advice=advice)
    return [name for name in past.unfinished if not only or name in only]


def _plan(options: BatchOptions, past: Past, todo: Sequence[str]) -> Plan | None:
    """Plan the jobs that are still in the batch; None if none of them is."""
    from psicli.batch.plan import make_plan
    from psicli.batch.unattended.hooks import check_hooks

    batch = options.load()
    there = [entry.name for entry in batch.jobs]
    before = {job.name for job in past.jobs}
    gone, new = [name for name in todo if name not in there], [name for name in there if name not in before]
    if gone:
        logger.warning("no longer in the batch, and so not run: %s", _some(gone))
    if new:
        logger.info("not part of that run of the batch, and so not run by a retry: %s", _some(new))
    left = [name for name in todo if name in there]
    if not left:
        return None
    logger.info("continuing the batch of %s: %d of %s to run", _when(past), len(left), counted(len(past.jobs), "job"))
    check_hooks(batch)
    return make_plan(batch, left)


def _nothing_to_do(options: BatchOptions, past: Past) -> int:
    from psicli.report.batch import BatchReport
    from psicli.report.batch.summary import to_json

    text = f"{past.name}: nothing is left to run of the batch of {_when(past)}"
    report = BatchReport(past.name, [], past.started, remarks=[text])
    leave_page(checked_page(options.page), report, past)
    if options.as_json:
        write(to_json(report))
    elif not options.quiet:
        write(text)
    return report.exit_code


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")


def _when(past: Past) -> str:
    return in_words(past.started)
