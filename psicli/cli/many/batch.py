"""psicli batch."""

from __future__ import annotations

import sys

import click

from psicli.cli.many.options import BatchOptions, batch_options
from psicli.cli.options import flag
from psicli.cli.screen import refuse, write
from psicli.core.errors import PsicliError
from psicli.report.layout import Screen


@click.command()
@batch_options
@flag("--dry-run", "Show the plan with estimates of time and memory, and start nothing.")
def batch(options: BatchOptions, dry_run: bool) -> int:
    """Run many jobs on this machine, as many at the same time as it can take.

    FILES are one batch file, or any number of job files. Each job runs as its own `psicli run`. Jobs that use the same
    port run one after another. The exit code is 0 if all jobs are done, else that of the first one in the list that
    failed.
    """
    console = options.console()
    try:
        plan = options.plan()
        limits = options.limits(plan.batch)
        if dry_run:
            from psicli.cli.many.dry_run import forecast, to_json, to_text

            found = forecast(plan)
            text = to_json(found, limits) if options.as_json else to_text(found, limits, Screen.of(sys.stdout))
            write(text)
            return 0
        # Imported late because it is slow.
        from psicli.batch.engine import run_batch

        code: int = run_batch(plan, limits, [], options.report_dir).exit_code
        return code
    except PsicliError as exc:
        return refuse(exc, options.as_json)
    finally:
        console.close()
