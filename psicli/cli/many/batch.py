"""psicli batch."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psicli.cli.many.options import BatchOptions, batch_options, dry_run_flag
from psicli.cli.page import checked_page, leave_batch
from psicli.cli.screen import streams_are_one, write
from psicli.core.errors import PsicliError, creating, unexpected
from psicli.report.console import Console, log_error
from psicli.report.layout import Screen
from psicli.report.metrics.file import check_metrics_file, save_batch
from psicli.storage.files import check_writable, save

if TYPE_CHECKING:
    from psicli.batch.plan import Plan
    from psicli.batch.record import Past, Start
    from psicli.report.batch import BatchReport, JobState

logger = logging.getLogger(__name__)

# The file in --report-dir that holds the report of the whole batch; no job can have this name.
_SUMMARY = "_batch.json"


@click.command()
@batch_options
@dry_run_flag
def batch(options: BatchOptions, dry_run: bool) -> int:
    """Run many jobs on this machine, as many at the same time as it can take.

    FILES are one batch file, or any number of job files. Each job runs as its own `psicli run`. Jobs that use the same
    port run one after another. The exit code is 0 if all jobs are done, else that of the first one in the list that
    failed.
    """

    def work(console: Console) -> int:
        plan = options.plan()
        return show_plan(options, plan) if dry_run else carry_out(options, console, plan, options.start())

    return reporting(options, work, None if dry_run else options.page)


def reporting(options: BatchOptions, work: Callable[[Console], int], page: Path | None) -> int:
    """Do the work of a command that runs a batch; report what keeps the batch from running.

    page: where to show that, too, if anywhere.
    """
    console = options.console()
    metrics, checked = None, None
    try:
        checked = checked_page(page)
        if options.metrics is not None:
            check_metrics_file(options.metrics)
            metrics = options.metrics
        return work(console)
    except click.ClickException:
        raise
    except PsicliError as exc:
        error = exc
    except Exception as exc:
        error = unexpected(exc, logger)
    finally:
        console.close()
    if metrics is not None:
        _keep_failure(metrics, options, error)
    _leave_failure(checked, error)
    log_error(error.message, error.advice)
    if options.as_json:
        from psicli.report.batch.summary import not_begun, to_json

        write(to_json(not_begun(error)))
    return error.code


def _keep_failure(metrics: Path, options: BatchOptions, error: PsicliError) -> None:
    """Write the metrics of a batch that did not begin: its name and its last good run are in its record."""
    from psicli.batch.record import last_batch
    from psicli.report.batch.summary import facts_of, not_begun

    past = last_batch([*map(str, options.files)])
    name, good = (past.name, past.good) if past else ("", None)
    save_batch(metrics, facts_of(not_begun(error, name)), good)


def _leave_failure(page: Path | None, error: PsicliError) -> None:
    """Write the page of a batch that did not begin."""
    from psicli.report.batch.summary import facts_of, not_begun

    if (unsaved := leave_batch(page, facts_of(not_begun(error)))) is not None:
        log_error(unsaved.message, unsaved.advice)


def show_plan(options: BatchOptions, plan: Plan) -> int:
    """Show a plan with estimates, and return the exit code."""
    from psicli.cli.many.dry_run import forecast, to_json, to_text

    found = forecast(plan, options.limits(plan.batch))
    write(to_json(found) if options.as_json else to_text(found, Screen.of(sys.stdout)))
    return 0


def carry_out(
    options: BatchOptions, console: Console, plan: Plan, start: Start, before: Sequence[JobState] = ()
) -> int:
    """Run a planned batch with its view and its record, show the report, and return the exit code.

    before: the jobs of the batch that this run continues.
    """
    # Imported late because it is slow.
    from psicli.batch.admission import settle
    from psicli.batch.engine import run_batch
    from psicli.batch.record import Record
    from psicli.batch.unattended.hooks import has_commands, surround
    from psicli.report.batch.summary import facts_of, to_json
    from psicli.report.batch.view import View

    console.job = plan.batch.name
    console.names = {"batch": plan.batch.name}
    limits = options.limits(plan.batch)
    # A job that can never run stops the batch before its first hook.
    settle(plan.jobs, limits)
    folder = options.report_dir
    if folder is not None:
        with creating(folder):
            folder.mkdir(0o700, parents=True, exist_ok=True)
        check_writable(folder / _SUMMARY)
    if options.metrics is not None:
        check_metrics_file(options.metrics)
    # A retry takes it over from the batch.
    page = checked_page(options.page)
    # Another run's hooks at the end must not meet this run's jobs.
    wait = limits.lock_timeout if has_commands(plan.batch.hooks) else None
    with Record(plan, start, before, wait) as record:
        with closing(View(console)) as view:
            report = surround(plan, folder, lambda: run_batch(plan, limits, (record, view), folder))
        record.finish(report.jobs, report.exit_code)
    if options.metrics is not None:
        # After a retry, they are about all jobs of the batch.
        whole = replace(report, jobs=[*record.past.jobs])
        report.warnings += save_batch(options.metrics, facts_of(whole), record.past.good)
    leave_page(page, report, record.past)
    if folder is not None:
        try:
            save(folder / _SUMMARY, to_json(report))
        except PsicliError as exc:
            logger.warning("%s", exc.message)
            report.warnings.append(exc.message)
    show_report(options, report)
    return report.exit_code


def leave_page(page: Path | None, report: BatchReport, past: Past) -> None:
    """Write the page of a batch, also with the jobs that an earlier run of it has done; a failure is its own then."""
    from psicli.report.batch.summary import facts_of

    known = {job.name for job in report.jobs}
    earlier = [vars(job) for job in past.jobs if job.name not in known]
    if (unsaved := leave_batch(page, facts_of(report), earlier)) is not None:
        log_error(unsaved.message, unsaved.advice)
        report.exit_code = report.exit_code or unsaved.code


def show_report(options: BatchOptions, report: BatchReport) -> None:
    """Show the report of a batch."""
    from psicli.report.batch.summary import to_json, to_text

    if options.as_json:
        write(to_json(report))
    elif report.exit_code or not options.quiet:
        # An empty line separates the report from the log.
        gap = "\n" * (streams_are_one() and not options.quiet)
        write(gap + to_text(report, Screen.of(sys.stdout), retry=_retry_command(options)))


def _retry_command(options: BatchOptions) -> str:
    """Return the command that goes on where this batch ends; job files that were named one by one are its last ones."""
    return f"psicli retry {shlex.quote(str(options.files[0]))}" if len(options.files) == 1 else "psicli retry"
